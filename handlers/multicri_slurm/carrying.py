"""A container's volumes, from the node into the cluster.

In the container's directory there, and so removed with it:

    volumes/<number>       a copy of what is mounted: a file, or a directory. One that the kubelet publishes anew has,
                           as on the node, its version in a directory of its own, to which the link ``..data`` leads
    termination-log        what the container writes to its terminationMessagePath

Beside the directories of the pod's containers, and removed with the last of them:

    volumes/<emptyDir>, volumes/<emptyDir>@<digest of a subPath>
"""

import asyncio
import posixpath
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from multicri_proxy.api.adapter import ContainerSpec
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, MulticriError, ResourceExhausted, Unavailable
from multicri_proxy.api.log import Log
from multicri_proxy.api.support import Answer, of_field
from multicri_slurm.mount_points import prepared
from multicri_slurm.node_files import File, Limits, Reader, Tree, look, version_of, write_message
from multicri_slurm.node_threads import NodeThreads
from multicri_slurm.records import Published, Record
from multicri_slurm.remote_trees import (
    all_of,
    directory_of,
    lead_to,
    publish,
    write_copy,
    write_file,
    write_tree,
)
from multicri_slurm.runtimes import Bind, Runtime
from multicri_slurm.settings import Settings
from multicri_slurm.sites import Site
from multicri_slurm.support import FIELDS
from multicri_slurm.verbs import ClusterVerbs
from multicri_slurm.volumes import Kind, Volume, decide, pod_directory

SMALL_BYTES = 128 * 1024
"""As much as every container's volumes may take of our memory at once. Of larger ones, MOST_LARGE containers' may."""

MOST_LARGE, TURN_WAIT_S = 2, 60.0
MESSAGE_BYTES = 4096
"""The kubelet reads no more of a termination message."""

MESSAGE_FILE = "termination-log"
_MESSAGE_PLACE = "/.multicri/termination-log"
_MESSAGE_LINKER = "/.singularity.d/env/99-multicri.sh"
_LINKER = """\
for multicri_ln in /bin/ln /usr/bin/ln; do
  if [ -x "$multicri_ln" ]; then
    "$multicri_ln" -s {target} {link}
    break
  fi
done
unset multicri_ln
"""
_HOST_ALIASES = b"# Entries added by HostAliases."
_LARGEST_HOSTS_BYTES = 1024 * 1024

_log = Log("slurm.volumes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the cluster a container's volumes go. directory: the container's. image: absolute path."""

    spec: ContainerSpec
    cluster: ClusterVerbs
    site: Site
    directory: str
    runtime: Runtime
    image: str
    mpi: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What the job needs to know.

    results_path: inside of the container; empty if it has no volume for results. notice: lines for the container's
    log. published: what is to be kept fresh.
    """

    binds: tuple[Bind, ...]
    results_path: str
    notice: str
    published: tuple[Published, ...]


class Carrier:
    """Carries volumes."""

    def __init__(self) -> None:
        self._node = NodeThreads()
        self._large = asyncio.Semaphore(MOST_LARGE)

    async def look(self, spec: ContainerSpec, settings: Settings) -> tuple[Volume, ...]:
        """Decide on a container's mounts. Raises InvalidArgument for those that cannot be carried."""
        for demand in spec.security.demands:
            support = of_field(FIELDS, demand.field)
            if support.answer is Answer.REFUSED:
                raise InvalidArgument(f"{demand} cannot be had in the cluster: {support.note}")
        if not spec.mounts:
            return ()
        directory = pod_directory(settings, spec.pod)
        on_node = await self._node.do(lambda: look(spec.mounts, directory))
        return decide(spec.mounts, spec.pod, on_node, settings)

    def results_of(self, spec: ContainerSpec, site: Site, volumes: Iterable[Volume], settings: Settings) -> str:
        """The directory for the container's results in the cluster; empty if it has none."""
        for volume in volumes:
            if volume.kind is Kind.RESULTS:
                return f"{_mounted(site, volume, settings)}/{spec.pod.sandbox_id}/{spec.id}"
        return ""

    def mounted(self, site: Site, volume: Volume, settings: Settings) -> str:
        """Where the cluster has mounted a volume of results."""
        return _mounted(site, volume, settings)

    async def carry(self, volumes: tuple[Volume, ...], place: Place) -> Carried:
        """Make the container's directory, and write what it mounts.

        Raises ResourceExhausted if it is too much, for the settings or for the cluster's disk.
        """
        async with AsyncExitStack() as held:
            return await self._write(volumes, await self._contents(volumes, place.cluster.settings, held), place)

    async def _contents(
        self, volumes: Iterable[Volume], settings: Settings, held: AsyncExitStack
    ) -> Mapping[int, File | Tree]:
        """Read all there is to copy. Of more than a little, only a few containers' are in memory at a time."""
        limits = _limits(settings)
        try:
            return await self._node.do(
                lambda: _read(volumes, replace(limits, size_bytes=min(SMALL_BYTES, limits.size_bytes)))
            )
        except ResourceExhausted:
            try:
                async with asyncio.timeout(TURN_WAIT_S):
                    await held.enter_async_context(self._large)
            except TimeoutError as error:
                raise Unavailable("large volumes of other containers are being copied: ask again") from error
            return await self._node.do(lambda: _read(volumes, limits))

    async def _write(self, volumes: tuple[Volume, ...], contents: Mapping[int, File | Tree], place: Place) -> Carried:
        await place.cluster.make_directories(*self._directories(volumes, place))
        ordered = sorted(volumes, key=lambda volume: volume.container_path.split("/"))
        binds = await all_of(self._carry_one(volume, contents.get(volume.number), place) for volume in ordered)
        made: dict[str, Bind] = {}
        for volume, wanted in zip(ordered, binds, strict=True):
            bind = wanted
            if wanted is not None and place.runtime.kind == "charliecloud":
                is_file = isinstance(contents.get(volume.number), File) or volume.kind is Kind.MESSAGE
                bind = await self._for_charliecloud(volume, wanted, made, place, is_file=is_file)
            elif wanted is not None and volume.kind is Kind.MESSAGE and volume.container_path.startswith("/dev/"):
                bind = await self._below_dev(wanted, made, place)
            if bind is not None:
                made[volume.container_path] = bind
        results = next((made[volume.container_path] for volume in volumes if volume.kind is Kind.RESULTS), None)
        return Carried(
            binds=tuple(made.values()),
            results_path=results.destination if results else "",
            notice=f"multicri: what is written to {results.destination} is kept in {results.source}\n"
            if results
            else "",
            published=tuple(
                Published(number=volume.number, host_path=volume.host_path, version=content.version)
                for volume in volumes
                if volume.kind is Kind.PUBLISHED and isinstance(content := contents[volume.number], Tree)
            ),
        )

    async def outdated(self, records: Sequence[Record]) -> list[Record]:
        """Those for which the kubelet has published something anew."""
        return await self._node.do(lambda: [record for record in records if any(map(_is_outdated, record.published))])

    async def refresh(self, record: Record, cluster: ClusterVerbs) -> tuple[Published, ...]:
        """Bring what the kubelet has published anew; returns what the cluster has then."""
        fresh = []
        for published in record.published:
            tree = await self._node.do(partial(_newer, published, cluster.settings))
            if tree is not None:
                await publish(cluster, record.directory, published, tree)
            fresh.append(published if tree is None else replace(published, version=tree.version))
        return tuple(fresh)

    async def bring_message(self, record: Record, cluster: ClusterVerbs) -> None:
        """Put the container's termination message where the kubelet reads it."""
        if not record.message_path:
            return
        message = await cluster.read_tail(f"{record.directory}/{MESSAGE_FILE}", MESSAGE_BYTES)
        if message:
            try:
                await self._node.do(lambda: write_message(record.message_path, message))
            except Unavailable as error:  # the end of a container is not to wait for this
                _log.warning("a termination message is lost", container_id=record.container_id, reason=error)

    def _directories(self, volumes: Iterable[Volume], place: Place) -> list[str]:
        """All that are wanted, so that they are made in one step."""
        wanted = [place.directory, f"{place.directory}/volumes"]
        for volume in volumes:
            if volume.kind is Kind.SHARED:
                wanted.append(_shared(volume, place))
            elif volume.kind is Kind.PUBLISHED:
                wanted.append(_copy(volume, place))
        return wanted

    async def _carry_one(self, volume: Volume, content: File | Tree | None, place: Place) -> Bind | None:
        """Write one volume; None if there is nothing to be seen of it."""
        cluster, source = place.cluster, _copy(volume, place)
        match volume.kind:
            case Kind.SHARED:
                source = _shared(volume, place)
            case Kind.RESULTS:
                source = self.results_of(place.spec, place.site, [volume], cluster.settings)
                await self._make_results(cluster, source, _mounted(place.site, volume, cluster.settings), volume)
            case Kind.MESSAGE:
                source = f"{place.directory}/{MESSAGE_FILE}"
                await write_file(cluster, source.encode(), File(content=b"", mode=0o600))
            case Kind.HOSTS:
                _, found, aliases = (
                    content.content.partition(_HOST_ALIASES) if isinstance(content, File) else (b"",) * 3
                )
                if not found:  # nothing that the pod asked for, and the cluster's own names are of more use there
                    return None
                own = await cluster.read_piece("/etc/hosts", 0, _LARGEST_HOSTS_BYTES) or b""
                await write_copy(cluster, source, File(content=own + b"\n" + found + aliases, mode=0o600))
            case Kind.COPIED if content is not None:
                await write_copy(cluster, source, content)
            case Kind.PUBLISHED if isinstance(content, Tree):
                await write_tree(cluster, f"{source}/{directory_of(content.version)}", content)
                await lead_to(cluster, source, content)
        return Bind(source=source, destination=volume.container_path, readonly=volume.readonly)

    async def _make_results(self, cluster: ClusterVerbs, path: str, mounted: str, volume: Volume) -> None:
        async with cluster.files() as files:
            if not await files.is_directory(mounted):
                raise FailedPrecondition(
                    f"volume {volume.name!r}: the cluster has no directory {mounted}: mount there what the volume "
                    "holds, or name the directory with the annotation slurm.multicri.io/volume-name.<volume>"
                )
            await files.make_directories(path)

    async def _for_charliecloud(
        self, volume: Volume, bind: Bind, made: Mapping[str, Bind], place: Place, *, is_file: bool
    ) -> Bind | None:
        """The bind with its mount point made; None for a termination message that cannot be had."""
        own_tmp = not place.mpi and "--write-fake" in place.runtime.options
        try:
            async with place.cluster.files() as files:
                return await prepared(files, bind, made, place.image, own_tmp=own_tmp, directory=not is_file)
        except FailedPrecondition as error:
            if volume.kind is not Kind.MESSAGE:
                raise
            _log.debug("no termination message", container_id=place.spec.id, reason=error)
            return None

    async def _below_dev(self, bind: Bind, made: dict[str, Bind], place: Place) -> Bind | None:
        """Apptainer mounts nothing into its own /dev, which it lets the container write to: so a link is put there.

        It is made by the shell that Apptainer starts every container with, if the image has a program for it.
        """
        if place.mpi:
            return None
        linker = _LINKER.format(target=_MESSAGE_PLACE, link=shlex.quote(bind.destination))
        source = f"{place.directory}/message.sh"
        await write_file(place.cluster, source.encode(), File(content=linker.encode(), mode=0o600))
        made[_MESSAGE_LINKER] = Bind(source=source, destination=_MESSAGE_LINKER, readonly=True)
        return replace(bind, destination=_MESSAGE_PLACE)


def _copy(volume: Volume, place: Place) -> str:
    return f"{place.directory}/volumes/{volume.number}"


def _shared(volume: Volume, place: Place) -> str:
    return f"{posixpath.dirname(place.directory)}/volumes/{volume.name}"


def _limits(settings: Settings) -> Limits:
    return Limits(size_bytes=settings.volume_bytes, files=settings.volume_files)


def _read(volumes: Iterable[Volume], limits: Limits) -> Mapping[int, File | Tree]:
    reader, contents = Reader(limits), dict[int, File | Tree]()
    for volume in volumes:
        if volume.kind is Kind.PUBLISHED:
            contents[volume.number] = reader.published(volume.host_path)
        elif volume.kind in {Kind.COPIED, Kind.HOSTS}:
            contents[volume.number] = reader.content(volume.host_path, is_real=volume.is_host_path)
    return contents


def _mounted(site: Site, volume: Volume, settings: Settings) -> str:
    """Where the cluster has mounted a volume for results."""
    return f"{site.home}/{settings.mount_path}/{volume.name}"


def _newer(published: Published, settings: Settings) -> Tree | None:
    return Reader(_limits(settings)).published(published.host_path) if _is_outdated(published) else None


def _is_outdated(published: Published) -> bool:
    try:
        return version_of(published.host_path) != published.version
    except MulticriError:  # the kubelet is about to remove it with the pod
        return False
