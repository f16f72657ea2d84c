"""Files in a directory that the node and the cluster share, used as the account would use them.

Whoever runs jobs there decides what is in it, and we are root on the node. So no link is followed, no other kind of
thing is opened than a file or a directory, and each piece of work has a thread whose file system user is the account's:
what is made is the account's, what the account may not read is not read, and a root that the file server does not trust
(NFS's root_squash) is never shown.
"""

import ctypes
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EDQUOT, ELOOP, ENOLCK, ENOSPC, ENOTDIR
from typing import TypeVar
from uuid import uuid4

from multicri_proxy.api.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from multicri_proxy.api.log import Log
from multicri_slurm.node_threads import NodeThreads

_T = TypeVar("_T")
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOBODY = 2**32 - 1
DEEPEST = 64

_log = Log("slurm.shared")

Path = bytes | str


class SharedFiles:
    """A `Files`, and what else a cluster is asked of files.

    here, there: the directory on the node, and in the cluster. name: to be said in errors.
    Paths are the cluster's, absolute; those outside of the directory are not there.
    """

    def __init__(self, *, here: str, there: str, uid: int, gid: int, name: str, wait_s: float) -> None:
        self._here = os.fsencode(here)
        self._there = os.fsencode(there)
        self._uid = uid
        self._gid = gid
        self.name = name
        self._threads = NodeThreads(wait_s, f"{name}: {here} does not answer")

    # -- a container's files -------------------------------------------------------------------------------------

    async def make_all(self, *paths: str) -> None:
        def work() -> None:
            for path in paths:
                with self.directory(path, make=True) as directory:
                    os.chmod(f"/proc/self/fd/{directory}", 0o700)  # noqa: PTH101

        await self.do(work)

    async def remove_all(self, *paths: str, if_empty: Sequence[str] = ()) -> None:
        """Raises Unavailable if one of the former is still there."""

        def work() -> None:
            for path in paths:
                with suppress(FileNotFoundError), self.parent(path) as (directory, name):
                    _wipe(name, directory)
            for path in if_empty:
                with suppress(OSError), self.parent(path) as (directory, name):
                    os.rmdir(name, dir_fd=directory)

        await self.do(work)

    async def write_all(self, directory: str, files: Mapping[str, tuple[bytes, int]]) -> None:
        def work() -> None:
            for name, (content, mode) in files.items():
                self._write(f"{directory}/{name}", content, mode)

        await self.do(work)

    async def read(self, path: str, offset: int, size: int) -> bytes | None:
        """A piece; None if there is no file."""

        def work() -> bytes | None:
            with self._opened(path) as file:
                return os.pread(file, size, offset) if file is not None else None

        return await self.do(work)

    async def sizes(self, paths: Sequence[str]) -> dict[str, int]:
        """Of those files that are there. A network file system asks its server when a file is opened."""

        def work() -> dict[str, int]:
            found = {}
            for path in paths:
                with self._opened(path) as file:
                    if file is not None:
                        found[path] = os.fstat(file).st_size
            return found

        return await self.do(work)

    async def replace(self, path: str, content: bytes) -> None:
        """Write a file in one step: it is the old one or the new one at any time."""

        def work() -> None:
            self._write(f"{path}.tmp", content, 0o600)
            self._rename(f"{path}.tmp", path)

        await self.do(work)

    async def room_bytes(self) -> int:
        """How much may be written still, which is tried, and whether it can be locked. Raises what `Files` raises."""

        def work() -> int:
            with self.directory(self._there, make=False) as directory:
                probe = f".multicri-check-{os.getpid()}".encode()
                with descriptors() as held:
                    file = held(os.open(probe, _WRITE | os.O_EXCL, 0o600, dir_fd=directory))
                    os.unlink(probe, dir_fd=directory)
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = os.statvfs(f"/proc/self/fd/{directory}")
                return found.f_bavail * found.f_frsize

        return await self.do(work)

    # -- Files ---------------------------------------------------------------------------------------------------

    async def mode_of(self, path: str) -> int | None:
        def work() -> int | None:
            try:
                with self.parent(path) as (directory, name):
                    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            except FileNotFoundError:
                return None

        return await self.do(work)

    async def is_directory(self, path: str) -> bool:
        mode = await self.mode_of(path)
        return mode is not None and stat.S_ISDIR(mode)

    async def link_target(self, path: str) -> str:
        def work() -> str:
            with self.parent(path) as (directory, name):
                return os.fsdecode(os.readlink(name, dir_fd=directory))

        return await self.do(work)

    async def make_directory(self, path: bytes, mode: int) -> None:
        def work() -> None:
            with self.parent(path) as (directory, name):
                os.mkdir(name, mode, dir_fd=directory)

        await self.do(work)

    async def make_directories(self, path: str) -> None:
        def work() -> None:
            with self.directory(path, make=True):
                pass

        await self.do(work)

    async def make_mount_point(self, path: str, *, directory: bool) -> None:
        def work() -> None:
            with suppress(FileExistsError), self.parent(path) as (parent, name):
                if directory:
                    os.mkdir(name, 0o755, dir_fd=parent)
                else:
                    os.close(os.open(name, _WRITE | os.O_EXCL, 0o644, dir_fd=parent))

        await self.do(work)

    async def write(self, path: bytes, content: bytes, mode: int) -> None:
        await self.do(lambda: self._write(path, content, mode))

    async def write_piece(self, path: bytes, offset: int, content: bytes) -> None:
        def work() -> None:
            with self.parent(path) as (directory, name), descriptors() as held:
                file = held(os.open(name, _WRITE & ~os.O_TRUNC, 0o644, dir_fd=directory))
                rest, at = memoryview(content), offset
                while rest:
                    written = os.pwrite(file, rest, at)
                    rest, at = rest[written:], at + written

        await self.do(work)

    async def make_link(self, target: bytes, path: bytes) -> None:
        def work() -> None:
            with self.parent(path) as (directory, name):
                os.symlink(target, name, dir_fd=directory)

        await self.do(work)

    async def rename(self, path: bytes, new: bytes) -> None:
        await self.do(lambda: self._rename(path, new))

    async def remove_file(self, path: bytes) -> None:
        def work() -> None:
            with suppress(FileNotFoundError), self.parent(path) as (directory, name):
                os.unlink(name, dir_fd=directory)

        await self.do(work)

    async def entries(self, directory: bytes) -> dict[bytes, int]:
        def work() -> dict[bytes, int]:
            with self.directory(directory, make=False) as found:
                inside = os.open(".", _READ | os.O_DIRECTORY, dir_fd=found)
                with descriptors() as held, os.scandir(held(inside)) as listed:
                    return {os.fsencode(e.name): e.stat(follow_symlinks=False).st_mode for e in listed}

        return await self.do(work)

    # -- in a thread ---------------------------------------------------------------------------------------------

    async def do(self, work: Callable[[], _T]) -> _T:
        """Have something done in a thread, as the account. Raises what `Files` raises."""

        def as_account() -> _T:
            become(self._uid, self._gid)
            return work()

        try:
            return await self._threads.do(as_account)
        except FileNotFoundError as error:
            raise NotFound(f"{self.name}: {error}") from error
        except PermissionError as error:
            raise FailedPrecondition(f"{self.name}: uid {self._uid} may not: {error}") from error
        except OSError as error:
            if error.errno in {ENOSPC, EDQUOT}:
                raise ResourceExhausted(f"{self.name}: files cannot be written in the cluster: {error}") from error
            if error.errno == ENOLCK:
                raise FailedPrecondition(
                    f"{self.name}: {os.fsdecode(self._here)} must be mounted with locks: {error}"
                ) from error
            if error.errno in {ENOTDIR, ELOOP}:
                raise FailedPrecondition(f"{self.name}: something is in the way there: {error}") from error
            raise Unavailable(f"{self.name}: {error}") from error

    def _parts(self, path: Path) -> list[bytes]:
        whole = os.fsencode(path)
        if whole != self._there and not whole.startswith(self._there + b"/"):
            raise FileNotFoundError(f"{os.fsdecode(whole)} is not in the directory that the cluster shares")
        parts = [part for part in whole[len(self._there) :].split(b"/") if part not in {b"", b"."}]
        if b".." in parts:
            raise FileNotFoundError(f"{os.fsdecode(whole)} leads out of the directory that the cluster shares")
        return parts

    @contextmanager
    def directory(self, path: Path, *, make: bool) -> Iterator[int]:
        """A directory, opened without following a link; made with all that lead to it, if it is to be made."""
        with descriptors() as held:
            at = held(os.open(self._here, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            for part in self._parts(path):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=at)
                at = held(os.open(part, _DIRECTORY, dir_fd=at))
            yield at

    @contextmanager
    def parent(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """The directory that a path is in, and the path's last part."""
        above, _, name = os.fsencode(path).rpartition(b"/")
        with self.directory(above, make=False) as directory:
            yield directory, name

    @contextmanager
    def _opened(self, path: Path) -> Iterator[int | None]:
        """A file to be read; None if there is none, or something else in its place."""
        with descriptors() as held:
            file = None
            try:
                with self.parent(path) as (directory, name):
                    file = held(os.open(name, _READ, dir_fd=directory))
            except OSError as error:
                if not isinstance(error, FileNotFoundError) and error.errno not in {ELOOP, ENOTDIR}:
                    raise
            yield file if file is not None and stat.S_ISREG(os.fstat(file).st_mode) else None

    def _write(self, path: Path, content: bytes, mode: int) -> None:
        with self.parent(path) as (directory, name), descriptors() as held:
            file = held(os.open(name, _WRITE, 0o600, dir_fd=directory))
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise FileExistsError(f"{os.fsdecode(path)} is no file")
            os.fchmod(file, mode)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file, rest) :]

    def _rename(self, path: Path, new: Path) -> None:
        with self.parent(path) as (directory, name), self.parent(new) as (new_directory, new_name):
            os.replace(name, new_name, src_dir_fd=directory, dst_dir_fd=new_directory)


@contextmanager
def descriptors() -> Iterator[Callable[[int], int]]:
    """Holds descriptors, and closes them at the end."""
    kept: list[int] = []

    def hold(descriptor: int) -> int:
        kept.append(descriptor)
        return descriptor

    try:
        yield hold
    finally:
        for descriptor in kept:
            os.close(descriptor)


def _wipe(name: bytes, directory: int) -> None:
    """Remove what is there, with all that is in it, whatever its modes and however deep.

    `shutil.rmtree` uses a descriptor and a stack frame for each level, and cannot open what forbids it.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=directory)
        return
    with _inside(name, directory) as top:
        while moved := _empty(top, top, DEEPEST):
            _log.debug("directories deep down are moved up to be removed", count=moved)
    os.rmdir(name, dir_fd=directory)


def _empty(directory: int, top: int, levels: int) -> int:
    """Remove what is in it. What is deeper than these levels is moved to the top; returns how many directories were."""
    moved = 0
    for name in os.listdir(directory):  # by descriptor
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=directory)
        elif levels:
            with _inside(os.fsencode(name), directory) as inside:
                moved += _empty(inside, top, levels - 1)
            os.rmdir(name, dir_fd=directory)
        else:
            os.rename(name, f".multicri-{uuid4().hex}", src_dir_fd=directory, dst_dir_fd=top)
            moved += 1
    return moved


@contextmanager
def _inside(name: bytes, directory: int) -> Iterator[int]:
    """A directory to be emptied, whatever its mode was."""
    with descriptors() as held:
        found = held(os.open(name, _DIRECTORY, dir_fd=directory))
        os.chmod(f"/proc/self/fd/{found}", 0o700)  # noqa: PTH101
        yield held(os.open(".", _READ | os.O_DIRECTORY, dir_fd=found))


def become(uid: int, gid: int) -> None:
    """Have this thread, and no other, use files as this user.

    Raises PermissionError if it may not. Source: setfsuid(2), which tells nothing but who it was before.
    """
    library = ctypes.CDLL(None)
    library.setfsgid(ctypes.c_uint32(gid))
    library.setfsuid(ctypes.c_uint32(uid))
    now = (library.setfsuid(ctypes.c_uint32(_NOBODY)), library.setfsgid(ctypes.c_uint32(_NOBODY)))
    if tuple(number & _NOBODY for number in now) != (uid, gid):
        raise PermissionError(f"this process may not use files as uid {uid}, gid {gid}: it must run as root")
