"""Paths as a container sees them, found below the directory that is its root: no link leads out of it.

The directory must not change meanwhile: it is looked at before the container is started.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from multicri_proxy.api.errors import InvalidArgument

MOST_LINKS = 40


def resolve(root: str, path: str) -> str:
    """Where it is below the root, without links, as ``/usr/lib``; what is missing of it is taken as it stands.

    Raises InvalidArgument if a file is in the way, or links lead nowhere.
    """
    rest, found, links = _parts(path), list[str](), 0
    while rest:
        part = rest.pop(0)
        if part == "..":
            del found[-1:]
            continue
        mode = _mode("/".join([root, *found, part]))
        if mode is not None and stat.S_ISLNK(mode):
            links += 1
            if links > MOST_LINKS:
                raise InvalidArgument(f"{path!r}: too many links in the image")
            target = str(Path("/".join([root, *found, part])).readlink())
            found = [] if target.startswith("/") else found
            rest = _parts(target) + rest
            continue
        if rest and mode is not None and not stat.S_ISDIR(mode):
            raise InvalidArgument(f"{path!r}: /{'/'.join([*found, part])} is no directory in the image")
        found.append(part)
    return "/" + "/".join(found)


def make(root: str, path: str, *, directory: bool) -> str:
    """Resolve it, and make what is missing, a directory or an empty file. Raises InvalidArgument."""
    where = resolve(root, path)
    whole = root + where
    mode = _mode(whole)
    if mode is None:
        (Path(whole) if directory else Path(whole).parent).mkdir(parents=True, exist_ok=True)
        if not directory:
            os.close(os.open(whole, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644))
    elif stat.S_ISDIR(mode) != directory:
        raise InvalidArgument(f"{path!r}: there is a {'file' if directory else 'directory'} in its place in the image")
    return where


def make_without_links(root: str, path: str, *, directory: bool) -> None:
    """In a volume that others may write to meanwhile: where there is a link, it is refused.

    Raises InvalidArgument.
    """
    parts = _parts(path)
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts if directory else parts[:-1]:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=here)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        if not directory:
            os.close(os.open(parts[-1], os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o644, dir_fd=here))
    except OSError as error:
        raise InvalidArgument(f"{path!r} in the volume above it cannot be a mount point: {error}") from error
    finally:
        os.close(here)


def read(root: str, path: str, most_bytes: int) -> bytes | None:
    """The beginning of a file; None if there is none."""
    whole = root + resolve(root, path)
    mode = _mode(whole)
    if mode is None or not stat.S_ISREG(mode):
        return None
    descriptor = os.open(whole, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return os.read(descriptor, most_bytes)
    finally:
        os.close(descriptor)


def _mode(path: str) -> int | None:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]
