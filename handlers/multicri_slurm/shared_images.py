"""Images in a directory that the node and the cluster share: noting that one is used takes files, and no job.

The files are those of image_scripts.py, and the lock is the one that builds and removals in the cluster hold.
"""

import asyncio
import fcntl
import os
import time
from contextlib import suppress
from errno import EACCES, EPERM, EROFS
from pathlib import PurePosixPath

from multicri_proxy.api.errors import Unavailable
from multicri_slurm.image_verbs import bytes_of_kib
from multicri_slurm.shared_files import SharedFiles, descriptors

LOOK_S = 0.5
SMALL_FILE_BYTES = 64
_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Busy(Exception):
    """Somebody builds or removes it."""


async def use_image(shared: SharedFiles, directory: str, file_name: str, holder: str, wait_s: float) -> int | None:
    """As `ClusterVerbs.use_image` has it, except that nothing is looked at but whether it is there.

    wait_s: for those who hold the lock. Raises Unavailable if it is being built or removed, and what `Files` raises.
    """
    end = time.monotonic() + wait_s
    while True:
        try:
            return await shared.do(lambda: _note(shared, directory, file_name, holder))
        except _Busy:
            if time.monotonic() > end:
                raise Unavailable(f"{shared.name}: {directory}/{file_name} is being built or removed") from None
        await asyncio.sleep(LOOK_S)


def _note(shared: SharedFiles, directory: str, file_name: str, holder: str) -> int | None:
    own = f".{file_name.partition('.')[0]}"
    with suppress(FileNotFoundError), shared.directory(directory, make=False) as images, descriptors() as held:
        os.stat(file_name, dir_fd=images, follow_symlinks=False)
        try:
            lock = held(os.open(f"{own}.lock", _FILE, 0o644, dir_fd=images))
        except OSError as error:
            if error.errno not in {EACCES, EPERM, EROFS}:
                raise
            return 0  # somebody else's, for us to read
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _Busy from None
        os.stat(file_name, dir_fd=images, follow_symlinks=False)
        with shared.directory(holder, make=True):
            pass
        with suppress(FileExistsError):
            os.mkdir(f"{own}.uses", 0o700, dir_fd=images)
        uses = held(os.open(f"{own}.uses", _DIRECTORY, dir_fd=images))
        with suppress(FileExistsError):
            os.symlink(holder, PurePosixPath(holder).name, dir_fd=uses)
        os.utime(held(os.open(f"{own}.used", _FILE, 0o644, dir_fd=images)))
        size = os.read(held(os.open(f"{own}.size", _FILE, 0o644, dir_fd=images)), SMALL_FILE_BYTES)
        return bytes_of_kib(size.decode("ascii", "replace").strip())
    return None
