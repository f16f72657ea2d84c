"""Brings an image that was built on the node into an account's directory.

It goes piece by piece to a file of another name, which tells what it will be. So whoever comes after a cut connection,
or a daemon that was killed, goes on where the file ends. What has come is used only if its digest is right.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.image import ImageFile
from multicri_proxy.api.log import Log
from multicri_slurm.image_verbs import BuildAnswer
from multicri_slurm.verbs import ClusterVerbs

PIECE_BYTES = 4 * 1024 * 1024
TRIES_OF_A_PIECE, FIRST_PAUSE_S = 5, 1.0
TELL_S = 10.0
FASTEST_BYTES_PER_S = 32 * 1024 * 1024
"""What is encrypted is done so by the process that serves ordinary pods' calls: half of its time stays for those."""

_log = Log("slurm.images")


async def send(
    cluster: ClusterVerbs, file: ImageFile, directory: str, file_name: str, arrived: Callable[[int], None]
) -> BuildAnswer:
    """file_name: of the image there; without a suffix, it is unpacked. arrived: is told how many bytes are there.

    Raises Unavailable if the connection breaks again and again, ResourceExhausted if there is no room.
    """
    name = file_name.partition(".")[0]
    sent = f"{directory}/.{name}.sending.{file.sha256[:16]}"
    async with cluster.files() as files:
        await files.make_directories(directory)
        if file.config and file_name != name:
            await files.write(f"{directory}/.{name}.config".encode(), file.config, 0o644)
    for _ in range(2):
        await _copy(cluster, file, sent, arrived)
        answer = await cluster.arrive_image(directory, file_name, sent, file.sha256)
        if answer is not None:
            return answer
        _log.warning("an image did not arrive as it was sent", account=cluster.login.account, file=sent)
    raise Unavailable(f"{cluster.login.account}: {sent} is not what was sent, again and again")


async def _copy(cluster: ClusterVerbs, file: ImageFile, sent: str, arrived: Callable[[int], None]) -> None:
    there = min(await cluster.size_of(sent) or 0, file.size_bytes)
    offset = max(0, there - 1) // PIECE_BYTES * PIECE_BYTES  # of the last piece, only some may have come
    account = cluster.login.account
    _log.info("sending an image", account=account, file=sent, size_bytes=file.size_bytes, offset=offset)
    told_at = asyncio.get_running_loop().time()
    async with _opened(file.path) as descriptor:
        while offset < file.size_bytes:
            arrived(offset)
            if (now := asyncio.get_running_loop().time()) - told_at > TELL_S:
                told_at = now
                _log.info("still sending", account=account, file=sent, offset=offset, size_bytes=file.size_bytes)
            piece = await asyncio.to_thread(os.pread, descriptor, PIECE_BYTES, offset)
            if not piece:
                raise Unavailable(f"{file.path} is shorter than it was")
            await _write(cluster, sent, offset, piece)
            offset += len(piece)


async def _write(cluster: ClusterVerbs, sent: str, offset: int, piece: bytes) -> None:
    loop, pause_s = asyncio.get_running_loop(), FIRST_PAUSE_S
    for tries_left in reversed(range(TRIES_OF_A_PIECE)):
        begun = loop.time()
        try:
            async with cluster.files() as files:
                await files.write_piece(sent.encode(), offset, piece)
        except Unavailable as error:
            if not tries_left:
                raise
            _log.info("sending goes on after an error", file=sent, offset=offset, error=error)
            await asyncio.sleep(pause_s)
            pause_s *= 2
        else:
            await asyncio.sleep(len(piece) / FASTEST_BYTES_PER_S - (loop.time() - begun))
            return


@asynccontextmanager
async def _opened(path: str) -> AsyncIterator[int]:
    try:
        descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise Unavailable(f"{path} was removed before it was sent") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
