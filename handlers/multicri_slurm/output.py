"""A container's output, read from its files in the cluster by offset."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from multicri_proxy.api.adapter import OutputStream
from multicri_slurm.records import Record, Stage
from multicri_slurm.retries import within
from multicri_slurm.tail import LOOK_S, Tail

LAG_PATIENCE_S = 20.0


async def read_output(
    *,
    tail_of: Callable[[], Tail],
    record: Callable[[], Record | None],
    ended: asyncio.Event,
    hurry: Callable[[], None],
    stream: OutputStream,
    offset: int,
) -> AsyncIterator[bytes]:
    """What the stream holds from an offset on, until the container has exited and all was read.

    tail_of: gives the login's. record: the container's, as it is now; None once it was removed.
    hurry: called when its exit file is there.
    The last words of a job that never ran the container, or was ended from outside, follow its stderr.
    """
    ended_at: float | None = None
    if (now := record()) is None:
        return
    directory, tail = now.directory, tail_of()
    with tail.following(directory):
        while (now := record()) is not None:
            over = now.stage is Stage.ENDED
            seen = await tail.look(directory, at_once=over)
            size = seen.sizes.get(stream)
            before = offset
            while size is not None and offset < size:
                piece = await tail.read(f"{directory}/{stream.value}", offset, size)
                if not piece:
                    break
                offset += len(piece)
                yield piece
            if offset > before:
                continue
            if not over:
                if seen.exited:
                    hurry()
                    await within(ended, LOOK_S)
                continue
            # A network file system may show the job's last bytes late: the exit file says how many there are.
            ended_at = ended_at or time.monotonic()
            whole = now.stdout_bytes if stream is OutputStream.STDOUT else now.stderr_bytes
            lags = whole is not None and size is not None and offset < whole
            if lags and time.monotonic() - ended_at < LAG_PATIENCE_S:
                await asyncio.sleep(LOOK_S)
                continue
            if stream is OutputStream.STDERR and now.last_words:
                already = max(0, offset - (size or 0))
                if rest := now.last_words.encode()[already:]:
                    yield rest
            return
