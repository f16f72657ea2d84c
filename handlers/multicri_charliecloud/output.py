"""What a container wrote, read from the file that it wrote to."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

CHUNK_BYTES = 256 * 1024
SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


async def read_output(
    path: Path, offset_bytes: int, ended: asyncio.Event, longest_pause_s: float = LONGEST_PAUSE_S
) -> AsyncIterator[bytes]:
    """From an offset on; ends when ``ended`` is set and everything was read."""
    pause_s = SHORTEST_PAUSE_S
    while True:
        last = ended.is_set()
        data = await asyncio.to_thread(_piece, path, offset_bytes)
        if data:
            offset_bytes += len(data)
            pause_s = SHORTEST_PAUSE_S
            yield data
        elif last:
            return
        else:
            try:
                async with asyncio.timeout(pause_s):
                    await ended.wait()
            except TimeoutError:
                pause_s = min(2 * pause_s, longest_pause_s)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _piece(path: Path, offset_bytes: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:  # not started yet
        return b""
    try:
        return os.pread(descriptor, CHUNK_BYTES, offset_bytes)
    finally:
        os.close(descriptor)
