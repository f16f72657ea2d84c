"""A client joined with a container's own process: its output from now on, and its stdin if it has one."""

import asyncio
import os
import signal
from collections.abc import AsyncIterable
from contextlib import suppress
from functools import partial

from multicri_charliecloud.directories import ContainerDirectory, Started
from multicri_charliecloud.output import read_output, size_of
from multicri_charliecloud.pipes import CHUNK_BYTES, drop, writer_to
from multicri_charliecloud.processes import Process
from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import FailedPrecondition, Unavailable
from multicri_proxy.api.streams import Reader, Streams, TerminalSize, Writer
from multicri_proxy.api.tasks import Tasks

LONGEST_PAUSE_S = 0.05  # somebody types, and wants to see it


async def follow(directory: ContainerDirectory, started: Started, ended: asyncio.Event, streams: Streams) -> None:
    """Copy what it writes from now on, until it has ended.

    Raises FailedPrecondition if stdin is to be fed and the container has none.
    """
    job = await asyncio.to_thread(directory.job)
    stdin = None
    if streams.stdin is not None:
        if not job["stdin"]:
            raise FailedPrecondition("the container has no stdin: it was not asked for in the pod")
        stdin = await _pipe_to(directory)
    try:
        writers = _writers(streams, has_terminal=job["tty"])
        # before anything is typed, so that its answer is not missed
        sizes = {stream: await asyncio.to_thread(size_of, directory.output(stream)) for stream in writers}
        async with Tasks() as tasks:
            copies = [
                tasks.outcome(f"copy {stream.value}", partial(_copy, directory, stream, sizes[stream], ended, writer))
                for stream, writer in writers.items()
            ]
            if streams.stdin is not None and stdin is not None:
                tasks.start("feed stdin", partial(_feed, streams.stdin, stdin))
            if streams.sizes is not None and job["tty"]:
                tasks.start("tell the terminal's size", partial(_resize, directory, started, streams.sizes))
            await asyncio.gather(*copies)
            await ended.wait()
    finally:
        if stdin is not None:
            drop(stdin)


def _writers(streams: Streams, *, has_terminal: bool) -> dict[OutputStream, Writer]:
    """A terminal writes to stdout alone."""
    stderr = None if has_terminal else streams.stderr
    wanted = {OutputStream.STDOUT: streams.stdout, OutputStream.STDERR: stderr}
    return {stream: writer for stream, writer in wanted.items() if writer is not None}


async def _copy(
    directory: ContainerDirectory, stream: OutputStream, offset_bytes: int, ended: asyncio.Event, writer: Writer
) -> None:
    async for piece in read_output(directory.output(stream), offset_bytes, ended, LONGEST_PAUSE_S):
        await writer.write(piece)


async def _pipe_to(directory: ContainerDirectory) -> asyncio.StreamWriter:
    """The supervisor passes on what is written here. Raises FailedPrecondition if it is gone."""
    try:
        descriptor = os.open(directory.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise FailedPrecondition(f"the container's stdin has ended: {error.strerror}") from error
    return await writer_to(descriptor)


async def _feed(source: Reader, stdin: asyncio.StreamWriter) -> None:
    """Until its end, or until the container takes no more."""
    with suppress(ConnectionError, Unavailable):
        while data := await source.read(CHUNK_BYTES):
            stdin.write(data)
            await stdin.drain()
    stdin.close()


async def _resize(directory: ContainerDirectory, started: Started, sizes: AsyncIterable[TerminalSize]) -> None:
    supervisor = Process.find(started.supervisor_pid, started.supervisor_start_time)
    if supervisor is None:
        return
    try:
        async for size in sizes:
            if size.rows and size.columns:
                await asyncio.to_thread(directory.size.write_text, f"{size.rows} {size.columns}")
                supervisor.signal(signal.SIGWINCH)
    finally:
        supervisor.close()
