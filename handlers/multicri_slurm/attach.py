"""A client joined with a container's own process: its output from now on, and its stdin if it has one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.streams import Streams, Writer
from multicri_proxy.api.tasks import Tasks
from multicri_slurm.exec import Execs
from multicri_slurm.running import Running

Output = Callable[[OutputStream, int], AsyncIterator[bytes]]


async def follow(running: Running, output: Output, execs: Execs, streams: Streams) -> None:
    """Copy what it writes from now on, until it has ended. output: gives a stream from an offset on.

    Raises FailedPrecondition if stdin is to be fed and the container has none.
    """
    writers = {
        OutputStream.STDOUT: streams.stdout,
        OutputStream.STDERR: streams.stdout if streams.tty else streams.stderr,
    }
    async with Tasks() as tasks:
        copies = [
            tasks.outcome(f"copy {stream.value}", partial(_copy, running, output, stream, writer))
            for stream, writer in writers.items()
            if writer is not None
        ]
        if streams.stdin is not None:
            fed = tasks.outcome("feed stdin", partial(execs.feed, running, streams.stdin))
            await asyncio.wait({fed, *copies}, return_when=asyncio.FIRST_COMPLETED)
            if fed.done() or not copies:
                await fed
        await asyncio.gather(*copies)


async def _copy(running: Running, output: Output, stream: OutputStream, writer: Writer) -> None:
    path = f"{running.record.directory}/{stream.value}"
    async for piece in output(stream, await running.cluster.size_of(path) or 0):
        await writer.write(piece)
