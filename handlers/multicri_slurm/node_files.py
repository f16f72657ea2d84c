"""A pod's volumes, read on the node. Blocks: for threads.

Nothing but directories, regular files and links is opened, no link is followed, and nothing is read beyond what is left
of a budget.
"""

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from multicri_proxy.api.adapter import Mount
from multicri_proxy.api.errors import InvalidArgument, ResourceExhausted, Unavailable
from multicri_slurm.volumes import EMPTY_DIR, OnNode, outside_of_pod, subpaths

DEEPEST = 40
MOST_DIRECTORIES = 2000
READ_BYTES = 256 * 1024
TRIES = 5
LONGEST_LINK_BYTES = 4095

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """mode: the owner's bits; readable in any case."""

    content: bytes
    mode: int


@dataclass(slots=True, kw_only=True)
class Tree:
    """What a directory holds, by relative paths; directories come before what is in them.

    version: the kubelet's name for this version of a volume that it publishes; empty for any other directory.
    """

    directories: list[bytes] = field(default_factory=list)
    files: dict[bytes, File] = field(default_factory=dict)
    links: dict[bytes, bytes] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be read for one container."""

    size_bytes: int
    files: int


class Reader:
    """Reads the volumes of one container, within the limits for all of them together."""

    def __init__(self, limits: Limits) -> None:
        self._left = limits

    def published(self, path: str) -> Tree:
        """One whole version of a volume that the kubelet publishes by exchanging the link ``..data``.

        Raises Unavailable if it is exchanged faster than it can be read.
        """
        before = self._left
        for _ in range(TRIES):
            self._left = before
            version = version_of(path)
            with _errors(path), suppress(FileNotFoundError):
                tree = self._tree(f"{path}/{version}")
                if version_of(path) == version:  # else the kubelet may have begun to delete it
                    return replace(tree, version=version)
        raise Unavailable(f"{path} changes faster than it can be read")

    def content(self, path: str, *, is_real: bool = False) -> File | Tree:
        """A directory or a regular file, whatever it is. is_real: no link was on the way to it when it was allowed."""
        place = path if is_real else None
        with _errors(path):
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode):
                return self._tree(path, place)
            return self._file(path, os.fsencode(path), None, mode, place)

    def _tree(self, path: str, place: str | None = None) -> Tree:
        tree = Tree()
        top = os.open(path, _DIRECTORY)
        try:
            _check_place(top, place)
            self._walk(path, top, b"", tree, 0)
        finally:
            os.close(top)
        return tree

    def _walk(self, shown: str, directory: int, prefix: bytes, tree: Tree, depth: int) -> None:
        if depth > DEEPEST:
            raise InvalidArgument(f"{shown}: directories are nested more than {DEEPEST} deep")
        with os.scandir(directory) as entries:
            names = sorted(os.fsencode(entry.name) for entry in self._counted(shown, entries))
        for name in names:
            path = prefix + name
            mode = os.lstat(name, dir_fd=directory).st_mode
            if stat.S_ISDIR(mode):
                tree.directories.append(path)
                inner = os.open(name, _DIRECTORY, dir_fd=directory)
                try:
                    self._walk(shown, inner, path + b"/", tree, depth + 1)
                finally:
                    os.close(inner)
            elif stat.S_ISLNK(mode):
                tree.links[path] = _checked_link(shown, path, os.readlink(name, dir_fd=directory))
            else:
                tree.files[path] = self._file(shown, name, directory, mode)

    def _counted(self, shown: str, entries: Iterator["os.DirEntry[str]"]) -> Iterator["os.DirEntry[str]"]:
        for entry in entries:
            self._take(shown, files=1)
            yield entry

    def _file(self, shown: str, name: bytes, directory: int | None, mode: int, place: str | None = None) -> File:
        if not stat.S_ISREG(mode):
            raise InvalidArgument(f"{shown}: {_text(name)} is no regular file, directory or link: it cannot be copied")
        descriptor = os.open(name, _FILE, dir_fd=directory)
        try:
            _check_place(descriptor, place)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidArgument(f"{shown}: {_text(name)} was exchanged for something that cannot be copied")
            pieces = []
            while piece := os.read(descriptor, READ_BYTES):
                self._take(shown, size_bytes=len(piece))
                pieces.append(piece)
        finally:
            os.close(descriptor)
        return File(content=b"".join(pieces), mode=mode & 0o700 | 0o400)

    def _take(self, shown: str, *, size_bytes: int = 0, files: int = 0) -> None:
        left = self._left = Limits(size_bytes=self._left.size_bytes - size_bytes, files=self._left.files - files)
        if left.size_bytes < 0:
            raise ResourceExhausted(f"{shown}: the container's volumes are larger than slurm.volume_bytes allows")
        if left.files < 0:
            raise ResourceExhausted(f"{shown}: the container's volumes have more files than slurm.volume_files allows")


def version_of(path: str) -> str:
    """What the kubelet calls the present version of a volume that it publishes.

    Raises Unavailable if there is none.
    """
    try:
        version = str(Path(path, "..data").readlink())
    except OSError as error:
        raise Unavailable(f"{path}: the kubelet has published nothing there: {error.strerror}") from error
    if "/" in version or not version.startswith("..") or version == "..":
        raise Unavailable(f"{path}/..data does not lead to a version of the volume")
    return version


def look(mounts: Sequence[Mount], directory: str) -> OnNode:
    """What `volumes.decide` wants to know of a pod, whose directory this is."""
    plugins: dict[str, str] = {}
    inner: dict[str, str] = {}
    for plugin in _names(f"{directory}/volumes"):
        plugins |= dict.fromkeys(_names(f"{directory}/volumes/{plugin}"), plugin)
    for host_path, name in subpaths(mounts, directory).items():
        if plugins.get(name) == EMPTY_DIR:
            found = _place_in(f"{directory}/volumes/{EMPTY_DIR}/{name}", host_path)
            inner |= {host_path: found} if found is not None else {}
    outside = outside_of_pod(mounts, directory)
    return OnNode(plugins=plugins, inner=inner, real_paths={path: os.path.realpath(path) for path in outside})


def _names(path: str) -> list[str]:
    try:
        return [entry.name for entry in Path(path).iterdir()]
    except OSError:
        return []


def _place_in(top: str, path: str) -> str | None:
    """Where below a directory another path's directory is: the kubelet mounts it there a second time."""
    wanted = _identity(path)
    for number, (directory, _, _) in enumerate(os.walk(top)):
        if number > MOST_DIRECTORIES:
            break
        if wanted is not None and _identity(directory) == wanted:
            return posixpath.relpath(directory, top)
    return None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def write_message(path: str, message: bytes) -> None:
    """Put a termination message where the kubelet reads it; a file that is gone, or is none, is left alone."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, message)
    finally:
        os.close(descriptor)


def _check_place(descriptor: int, place: str | None) -> None:
    """Another pod that may write to a directory on the way could have put a link there since it was allowed."""
    if place is not None and str(Path(f"/proc/self/fd/{descriptor}").readlink()) != place:
        raise InvalidArgument(f"hostPath {place!r} leads elsewhere than when it was allowed")


def _checked_link(shown: str, path: bytes, target: bytes) -> bytes:
    place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if target.startswith(b"/") or place == b".." or place.startswith(b"../") or len(target) > LONGEST_LINK_BYTES:
        raise InvalidArgument(f"{shown}: the link {_text(path)} leads out of the volume")
    return target


@contextmanager
def _errors(shown: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{shown} cannot be read on the node: {error.strerror}") from error


def _text(name: bytes) -> str:
    return repr(name.decode("utf-8", "replace")[:200])
