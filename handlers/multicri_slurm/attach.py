"""A client joined with a container's own process: its output from now on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.streams import Streams, Writer
from multicri_proxy.api.tasks import Tasks
from multicri_slurm.running import Running

Output = Callable[[OutputStream, int], AsyncIterator[bytes]]


async def follow(running: Running, output: Output, streams: Streams) -> None:
    """Copy what it writes from now on, until it has ended. output: gives a stream from an offset on.

    Raises FailedPrecondition if stdin is to be fed: a container's is empty.
    """
    if streams.stdin is not None:
        raise FailedPrecondition(f"{running}: its container's stdin is empty: attach without it, or exec")
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
        await asyncio.gather(*copies)


async def _copy(running: Running, output: Output, stream: OutputStream, writer: Writer) -> None:
    path = f"{running.record.directory}/{stream.value}"
    async for piece in output(stream, await running.cluster.size_of(path) or 0):
        await writer.write(piece)
