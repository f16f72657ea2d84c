"""Copies of volumes in the cluster: files, directories, and versions that are exchanged under a running container."""

import asyncio
import hashlib
import stat
from collections.abc import Coroutine, Iterable
from typing import TypeVar

from multicri_slurm.node_files import File, Tree
from multicri_slurm.records import Published
from multicri_slurm.verbs import ClusterVerbs

WRITES_AT_ONCE = 16

_T = TypeVar("_T")


async def all_of(steps: Iterable[Coroutine[object, object, _T]]) -> list[_T]:
    """Do these at once. The first error ends the others, and comes out as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step) for step in steps]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def write_copy(cluster: ClusterVerbs, target: str, content: File | Tree) -> None:
    """Write a file or a directory that is not there yet."""
    if isinstance(content, File):
        await write_file(cluster, target.encode(), content)
    else:
        await write_tree(cluster, target, content)


async def write_tree(cluster: ClusterVerbs, target: str, tree: Tree) -> None:
    """Write a directory that is not there yet. Its links come last: nothing is written through them."""
    top = target.encode()
    async with cluster.files() as files:
        for path in (top, *(top + b"/" + directory for directory in tree.directories)):
            await files.make_directory(path, 0o700)
    free = asyncio.Semaphore(WRITES_AT_ONCE)

    async def write(name: bytes, file: File) -> None:
        async with free:
            await write_file(cluster, top + b"/" + name, file)

    await all_of(write(name, file) for name, file in tree.files.items())
    async with cluster.files() as files:
        for name, link in tree.links.items():
            await files.make_link(link, top + b"/" + name)


async def write_file(cluster: ClusterVerbs, path: bytes, file: File) -> None:
    """Write a file that nobody else can read at any time."""
    async with cluster.files() as files:
        await files.write(path, file.content, file.mode)


async def lead_to(cluster: ClusterVerbs, volume: str, tree: Tree) -> None:
    """Have ``..data`` lead to a version, in one step, and a link through it for each name at the top.

    The container may write here, where its mounts cannot be read-only: nothing is done through a link.
    """
    names = {path.split(b"/")[0] for path in (*tree.directories, *tree.files, *tree.links)}
    top = volume.encode()
    async with cluster.files() as files:
        await files.remove_file(top + b"/..data_tmp")
        await files.make_link(directory_of(tree.version).encode(), top + b"/..data_tmp")
        await files.rename(top + b"/..data_tmp", top + b"/..data")
        entries = await files.entries(top)
        for name in names - entries.keys():
            await files.make_link(b"..data/" + name, top + b"/" + name)
        for name in entries.keys() - names:
            if stat.S_ISLNK(entries[name]) and not name.startswith(b".."):
                await files.remove_file(top + b"/" + name)


async def publish(cluster: ClusterVerbs, directory: str, published: Published, tree: Tree) -> None:
    """Exchange a version for a newer one, as the kubelet does.

    It is written where the container cannot reach it, which might have put a link in its way.
    """
    volume, name = f"{directory}/volumes/{published.number}", directory_of(tree.version)
    incoming = f"{directory}/volumes/.{published.number}"
    await cluster.remove_directories(incoming, f"{volume}/{name}")
    await write_tree(cluster, incoming, tree)
    async with cluster.files() as files:
        await files.rename(incoming.encode(), f"{volume}/{name}".encode())
    await lead_to(cluster, volume, tree)
    await cluster.remove_directories(f"{volume}/{directory_of(published.version)}")


def directory_of(version: str) -> str:
    """A version's directory in the cluster: the kubelet's own names are not for a command line."""
    return f"..{hashlib.sha256(version.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
