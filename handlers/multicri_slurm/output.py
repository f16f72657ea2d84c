"""A container's output, read from its files in the cluster by offset."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from multicri_proxy.api.adapter import OutputStream
from multicri_slurm.cluster import Cluster
from multicri_slurm.records import Record, Stage
from multicri_slurm.retries import within

PIECE_BYTES = 128 * 1024
POLL_S, IDLE_AFTER_S, IDLE_POLL_S = 0.4, 30.0, 2.0
LAG_PATIENCE_S = 20.0


async def read_output(
    *,
    cluster: Cluster,
    record: Callable[[], Record | None],
    ended: asyncio.Event,
    hurry: Callable[[], None],
    stream: OutputStream,
    offset: int,
) -> AsyncIterator[bytes]:
    """What the stream holds from an offset on, until the container has exited and all was read.

    record: the container's, as it is now; None once it was removed. hurry: called when its exit file is there.
    The last words of a job that never ran the container, or was ended from outside, follow its stderr.
    """
    news_at, ended_at = time.monotonic(), None
    while (now := record()) is not None:
        over = now.stage is Stage.ENDED
        path = f"{now.directory}/{stream.value}"
        piece = await cluster.read_piece(path, offset, PIECE_BYTES)
        if piece:
            offset += len(piece)
            news_at = time.monotonic()
            yield piece
            continue
        if not over:
            if await cluster.size_of(f"{now.directory}/exit") is not None:
                hurry()
            poll_s = POLL_S if time.monotonic() - news_at < IDLE_AFTER_S else IDLE_POLL_S
            await within(ended, poll_s)
            continue
        # A network file system may show the job's last bytes late: the exit file says how many there are.
        ended_at = ended_at or time.monotonic()
        whole = now.stdout_bytes if stream is OutputStream.STDOUT else now.stderr_bytes
        if whole is not None and piece is not None and offset < whole and time.monotonic() - ended_at < LAG_PATIENCE_S:
            await asyncio.sleep(POLL_S)
            continue
        if stream is OutputStream.STDERR and now.last_words:
            already = max(0, offset - (await cluster.size_of(path) or 0))
            if rest := now.last_words.encode()[already:]:
                yield rest
        return
