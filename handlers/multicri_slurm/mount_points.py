"""Mount points for Charliecloud, which makes none for files, nor below another mount, nor where an image's absolute
link is in the way: they are made in the image's directory, or in that of the other mount, before.
"""

import stat
from collections.abc import Mapping
from dataclasses import replace

from multicri_proxy.api.errors import FailedPrecondition, Unavailable
from multicri_slurm.files import Files
from multicri_slurm.runtimes import SQUASHFS, Bind

MOST_LINKS = 40


async def prepared(
    files: Files,
    bind: Bind,
    made: Mapping[str, Bind],
    image: str,
    *,
    own_tmp: bool,
    directory: bool,
) -> Bind:
    """The bind, with its mount point made and the links on the way to it resolved.

    made: the binds before it, by the paths that the pod names. own_tmp: does ch-run make what is missing in a /tmp of
    the container's own? directory: is it one that is bound, or a file?
    Raises FailedPrecondition if Charliecloud cannot make this mount.
    """
    path = bind.destination
    if ":" in path:
        raise FailedPrecondition(f"mountPath {path!r}: ch-run takes no path with a colon")
    outer = max((other for other in made if path.startswith(f"{other}/")), key=len, default=None)
    if outer is not None:
        within = path.removeprefix(outer)
        inner = await make_mount_point(files, made[outer].source, within, directory=directory, most_links=0)
        return replace(bind, destination=made[outer].destination + inner)
    if directory and (path == "/dev/shm" or (own_tmp and path.startswith("/tmp/"))):  # noqa: S108
        return bind  # there, or made by ch-run
    if path.startswith(("/dev/", "/tmp/")):  # noqa: S108
        raise FailedPrecondition(f"mountPath {path!r}: Charliecloud can mount nothing there")
    if image.endswith(SQUASHFS):  # ch-run makes directories in it, over which it has a file system of its own
        if directory or path == "/etc/hosts":
            return bind
        raise FailedPrecondition(
            f"mountPath {path!r}: ch-run can mount a file only where the image has one, which in a SquashFS image "
            "cannot be seen: mount its directory, or set image_builder: charliecloud"
        )
    return replace(bind, destination=await make_mount_point(files, image, path, directory=directory))


async def make_mount_point(files: Files, root: str, path: str, *, directory: bool, most_links: int = MOST_LINKS) -> str:
    """Make it, unless it is there, and return where it is below the root, without links.

    Links are followed as if the root were that of the container: none leads out of it.
    Raises FailedPrecondition if something else is in its way.
    """
    rest, found, links = _parts(path), list[str](), 0
    while rest:
        part = rest.pop(0)
        if part == "..":
            del found[-1:]
            continue
        here = "/".join([root, *found, part])
        mode = await files.mode_of(here)
        if mode is None:
            await files.make_mount_point(here, directory=directory or bool(rest))
            mode = await files.mode_of(here)
        if mode is None:
            raise Unavailable(f"mountPath {path!r}: {part!r} was removed by somebody else")
        if stat.S_ISLNK(mode):
            links += 1
            if links > most_links:
                raise FailedPrecondition(
                    f"mountPath {path!r}: {part!r} is a link, which Charliecloud cannot follow here"
                )
            target = await files.link_target(here)
            found = [] if target.startswith("/") else found
            rest = _parts(target) + rest
            continue
        if stat.S_ISDIR(mode) != (directory or bool(rest)):
            raise FailedPrecondition(
                f"mountPath {path!r}: there is a {'directory' if stat.S_ISDIR(mode) else 'file'} in its place"
            )
        found.append(part)
    return "/" + "/".join(found)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]
