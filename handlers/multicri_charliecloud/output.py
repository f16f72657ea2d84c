"""What a container wrote, read from the file that it wrote to."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path

from multicri_charliecloud import kernel

CHUNK_BYTES = 256 * 1024
KEPT_BYTES = 256 * 1024 * 1024
"""Of what was read, so much can be read again: a log whose last rotation or position is lost begins anew there."""

FREED_AT_ONCE_BYTES = 16 * 1024 * 1024
SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


async def read_output(
    path: Path, offset_bytes: int, ended: asyncio.Event, longest_pause_s: float = LONGEST_PAUSE_S
) -> AsyncGenerator[bytes, None]:
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


async def copied_output(
    path: Path, offset_bytes: int, ended: asyncio.Event, kept_bytes: int = KEPT_BYTES
) -> AsyncGenerator[bytes, None]:
    """For whoever copies it to where it stays: what is long copied takes no room any more."""
    freed_bytes = 0
    async with aclosing(read_output(path, offset_bytes, ended)) as pieces:
        async for piece in pieces:
            yield piece
            offset_bytes += len(piece)
            if offset_bytes - kept_bytes - freed_bytes >= min(kept_bytes, FREED_AT_ONCE_BYTES):
                freed_bytes = offset_bytes - kept_bytes
                await asyncio.to_thread(_free, path, freed_bytes)


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


def _free(path: Path, length: int) -> None:
    """Not every file system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            kernel.punch_hole(descriptor, length)
        finally:
            os.close(descriptor)
