"""A client joined with a container's own process: its output from now on, and its stdin if it has one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.streams import Streams, Writer
from multicri_proxy.api.tasks import Tasks
from multicri_slurm.exec import Execs, NoTerminal
from multicri_slurm.retries import within
from multicri_slurm.running import Running

ENDED_WITHIN_S = 20.0

Output = Callable[[OutputStream, int], AsyncIterator[bytes]]


async def follow(running: Running, output: Output, execs: Execs, streams: Streams, ended: asyncio.Event) -> None:
    """Copy what it writes from now on, until it has ended. output: gives a stream from an offset on.

    Raises FailedPrecondition if stdin is to be fed and the container has none.
    """
    if streams.tty:
        with suppress(NoTerminal):
            await _join(running, output, execs, streams, ended)
            return
    writers = {
        OutputStream.STDOUT: streams.stdout,
        OutputStream.STDERR: streams.stdout if streams.tty else streams.stderr,
    }
    wanted = {stream: writer for stream, writer in writers.items() if writer is not None}
    # before anything is typed, so that its answer is not missed
    pieces = {stream: output(stream, await _size_of(running, stream)) for stream in wanted}
    async with Tasks() as tasks:
        copies = [
            tasks.outcome(f"copy {stream.value}", partial(_copy, pieces[stream], writer))
            for stream, writer in wanted.items()
        ]
        if streams.stdin is not None:
            fed = tasks.outcome("feed stdin", partial(execs.feed, running, streams.stdin))
            await asyncio.wait({fed, *copies}, return_when=asyncio.FIRST_COMPLETED)
            if fed.done() or not copies:
                try:
                    await fed
                except Unavailable:  # a job that ends takes along what feeds it
                    if not await within(ended, ENDED_WITHIN_S):
                        raise
        await asyncio.gather(*copies)


async def _join(running: Running, output: Output, execs: Execs, streams: Streams, ended: asyncio.Event) -> None:
    """The client's terminal with the container's. What this wrote last comes by its file: its job takes us along."""
    offset = await _size_of(running, OutputStream.STDOUT)
    passed_on = _Counting(streams.stdout)
    try:
        await execs.join(running, replace(streams, stdout=passed_on), offset)
    except Unavailable:
        if not await within(ended, ENDED_WITHIN_S):
            raise
    async for piece in output(OutputStream.STDOUT, offset + passed_on.size):
        await passed_on.write(piece)


class _Counting:
    """A writer that knows how much it has written."""

    def __init__(self, writer: Writer | None) -> None:
        self._writer = writer
        self.size = 0

    async def write(self, data: bytes) -> None:
        self.size += len(data)
        if self._writer is not None:
            await self._writer.write(data)


async def _size_of(running: Running, stream: OutputStream) -> int:
    return await running.cluster.size_of(f"{running.record.directory}/{stream.value}") or 0


async def _copy(pieces: AsyncIterator[bytes], writer: Writer) -> None:
    async for piece in pieces:
        await writer.write(piece)
