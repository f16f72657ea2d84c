"""Brings an image that was built on the node into an account's directory.

It goes piece by piece to a file of another name, which tells what it will be. So whoever comes after a cut connection,
or a daemon that was killed, goes on where the file ends. What has come is used only if its digest is right.
"""

import asyncio
import base64
import os
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from multicri_proxy.api import errors
from multicri_proxy.api.children import ask
from multicri_proxy.api.errors import MulticriError, Unavailable
from multicri_proxy.api.image import ImageFile
from multicri_proxy.api.log import Log
from multicri_slurm.accounts import Login
from multicri_slurm.image_verbs import BuildAnswer
from multicri_slurm.profiles import Profile
from multicri_slurm.verbs import ClusterVerbs

PIECE_BYTES = 4 * 1024 * 1024
TRIES_OF_A_PIECE, FIRST_PAUSE_S = 5, 1.0
TELL_S = 10.0

_log = Log("slurm.images")


async def send(
    cluster: ClusterVerbs, file: ImageFile, directory: str, file_name: str, arrived: Callable[[int], None]
) -> BuildAnswer:
    """file_name: of the image there; without a suffix, it is unpacked. arrived: is told how many bytes are there.

    Raises Unavailable if the connection breaks again and again, ResourceExhausted if there is no room.
    """
    name, account = file_name.partition(".")[0], cluster.login.account
    sent = f"{directory}/.{name}.sending.{file.sha256[:16]}"
    async with cluster.files() as files:
        await files.make_directories(directory)
        if file.config and file_name != name:
            await files.write(f"{directory}/.{name}.config".encode(), file.config, 0o644)
    loop = asyncio.get_running_loop()
    told_at = loop.time()

    def tell(offset: int) -> None:
        nonlocal told_at
        arrived(offset)
        if (now := loop.time()) - told_at > TELL_S:
            told_at = now
            _log.info("still sending", account=account, file=sent, offset=offset, size_bytes=file.size_bytes)

    for _ in range(2):
        there = min(await cluster.size_of(sent) or 0, file.size_bytes)
        offset = max(0, there - 1) // PIECE_BYTES * PIECE_BYTES  # of the last piece, only some may have come
        _log.info("sending an image", account=account, file=sent, size_bytes=file.size_bytes, offset=offset)
        for error in await cluster.send_file(file.path, sent, offset, tell):
            _log.info("sending went on after an error", account=account, file=sent, error=error)
        answer = await cluster.arrive_image(directory, file_name, sent, file.sha256)
        if answer is not None:
            return answer
        _log.warning("an image did not arrive as it was sent", account=account, file=sent)
    raise Unavailable(f"{account}: {sent} is not what was sent, again and again")


async def copy_apart(
    login: Login, profile: Profile, path: str, sent: str, offset: int, *, arrived: Callable[[int], None]
) -> list[str]:
    """As `copy`, over SSH, by another process: to encrypt gigabytes would keep ordinary pods' calls waiting."""
    who = base64.b64encode(pickle.dumps((login, profile))).decode()
    question = {"who": who, "path": path, "sent": sent, "offset": offset}
    try:
        answer = await ask("multicri_slurm.sending", question, arrived)
    except (OSError, ValueError) as error:
        raise Unavailable(f"{login.account}: the process that sent {path} was killed") from error
    if "error" in answer:
        kind: type[MulticriError] = getattr(errors, str(answer["error"]))
        raise kind(str(answer["message"]))
    got_over = answer["errors"]
    return [str(error) for error in got_over] if isinstance(got_over, list) else []


async def copy(cluster: ClusterVerbs, path: str, sent: str, offset: int, arrived: Callable[[int], None]) -> list[str]:
    """Copy a file of the node from an offset on; returns errors that it has got over. Raises what `Files` raises."""
    got_over: list[str] = []
    async with _opened(path) as descriptor:
        while piece := await asyncio.to_thread(os.pread, descriptor, PIECE_BYTES, offset):
            await _write(cluster, sent, offset, piece, got_over)
            offset += len(piece)
            arrived(offset)
    return got_over


async def _write(cluster: ClusterVerbs, sent: str, offset: int, piece: bytes, got_over: list[str]) -> None:
    pause_s = FIRST_PAUSE_S
    for tries_left in reversed(range(TRIES_OF_A_PIECE)):
        try:
            async with cluster.files() as files:
                await files.write_piece(sent.encode(), offset, piece)
        except Unavailable as error:
            if not tries_left:
                raise
            got_over.append(str(error))
            await asyncio.sleep(pause_s)
            pause_s *= 2
        else:
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
