"""Images on the node: a directory or a SquashFS file for each, which containers get copies of.

A build belongs to the image, not to the call that wanted it first: a PullImage or CreateContainer that is cancelled
leaves it running, and the kubelet's retry joins it. There is one build at a time: ch-image does not wait for its
storage's lock. What is being built has another name until it is complete and on disk.
"""

import asyncio
import os
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from multicri_charliecloud.programs import as_identity, environment, run
from multicri_charliecloud.settings import Identity, Settings
from multicri_proxy.api.adapter import Store
from multicri_proxy.api.counts import ImageCounts
from multicri_proxy.api.errors import FailedPrecondition, MulticriError
from multicri_proxy.api.ids import ImageId
from multicri_proxy.api.image import Build, Image, ImageBuilder, ImagePool, Stored, build_error
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks

BUILDER = "charliecloud"
SQUASHFS_SUFFIX = ".sqfs"
CLEAN_TIMEOUT_S = 600.0
LONGEST_LOG = 4096
LOOK_S, TELL_S = 0.5, 10.0
"""How often it is looked how far a build is, and how often the log tells."""
MARK = "images"
"""Key in the adapter's store while there may be images: an adapter that remembers something is there from the start."""

_log = Log("charliecloud.images")


class Images:
    """directory: of the images; it belongs to the identity that builds them."""

    def __init__(
        self,
        directory: Path,
        *,
        settings: Settings,
        identity: Identity | None,
        pool: ImagePool,
        builders: Sequence[ImageBuilder],
        store: Store,
        tasks: Tasks,
        counts: ImageCounts,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._identity = identity
        self._pool = pool
        self._builders = builders
        self._store = store
        self._tasks = tasks
        self._counts = counts
        self._one_at_a_time = asyncio.Lock()
        self._builds: dict[ImageId, asyncio.Future[Path]] = {}
        self._failures: dict[ImageId, str] = {}
        self._sizes: dict[ImageId, tuple[int, int]] = {}  # bytes and inodes
        self._arrived: dict[ImageId, tuple[int, int]] = {}  # bytes so far, and of how many
        self._users: Counter[ImageId] = Counter()
        self._unused = asyncio.Condition()

    def adopt(self) -> None:
        """Take up what the process before has left: what the pool knows is measured, all else removed."""
        self._tasks.start("take up images", self._take_up)

    async def _take_up(self) -> None:
        found: dict[ImageId, Path] = {}
        async with self._one_at_a_time:
            for path in await asyncio.to_thread(list, self._directory.iterdir()):
                image_id = ImageId(f"sha256:{path.name.removesuffix(SQUASHFS_SUFFIX)}")
                if (image := self._pool.find(image_id)) is not None and image.id == image_id:
                    found[image_id] = path
                    continue
                try:
                    await self.remove(path)
                except MulticriError as error:
                    _log.warning("what a build has left cannot be removed", path=path, error=error)
        if found:
            await self._store.put(MARK, b"")
        for image_id, path in found.items():
            async with self._used(image_id):
                if await asyncio.to_thread(path.exists):
                    self._sizes[image_id] = await asyncio.to_thread(_size, path)

    @asynccontextmanager
    async def using(self, image: Image, namespace: str) -> AsyncIterator[Path]:
        """What the image is on the node, which stays until this is left; built if it is not there.

        namespace: whose credentials a build may use.
        Raises what a failed build means, with the last words of ch-image, Unavailable if it takes too long.
        """
        async with self._used(image.id):
            yield await self._ready(image, namespace)

    async def _ready(self, image: Image, namespace: str) -> Path:
        build = self._builds.get(image.id)
        if build is None:
            work = partial(self._there, image, namespace)
            build = self._builds[image.id] = self._tasks.outcome(f"build {image.source}", work)
            build.add_done_callback(lambda _: self._builds.pop(image.id, None))
        return await asyncio.shield(build)

    def builds(self, image_id: ImageId) -> Sequence[Build]:
        """What became of an image here."""
        place, log = str(self._path(image_id)), self._failures.get(image_id, "")
        if image_id in self._sizes:
            return (Build(place=place, state="built", size_bytes=self._sizes[image_id][0]),)
        if image_id in self._builds:
            done, of = self._arrived.get(image_id, (0, 0))
            return (Build(place=place, state="building", done_bytes=done, of_bytes=of),)
        return (Build(place=place, state="failed", log=log),) if log else ()

    def stored(self) -> Stored:
        return Stored(
            directory=self._directory,
            sizes_bytes={image_id: size_bytes for image_id, (size_bytes, _) in self._sizes.items()},
            inodes_used=sum(inodes for _, inodes in self._sizes.values()),
        )

    async def forget(self, image: Image) -> None:
        """Remove what was built of it: containers have copies of their own.

        The room is there on return, for that is when a kubelet under disk pressure looks; in the background, if the
        image is being built or copied.
        """
        self._failures.pop(image.id, None)

        async def remove() -> None:
            path = self._path(image.id)
            gone = path.with_name(f"{path.name}.gone")
            try:
                await self.remove(gone)
                async with self._unused:
                    await self._unused.wait_for(lambda: not self._users[image.id])
                    if self._pool.find(image.id) is not None:  # pulled again meanwhile
                        return
                    await asyncio.to_thread(_rename, path, gone)
                self._sizes.pop(image.id, None)
                if not self._sizes and not self._builds:
                    await self._store.delete(MARK)
                await self.remove(gone)
            except (MulticriError, OSError) as error:
                _log.warning("an image is left on the node until the next start", image_id=image.id, error=error)
            else:
                _log.info("image removed from the node", image_id=image.id, source=image.source)

        removal = self._tasks.outcome(f"remove image {image.id}", remove)
        if not self._users[image.id]:
            await asyncio.shield(removal)

    async def copy(self, image: Path, target: Path) -> None:
        """target: must not be there; its directory belongs to the same identity."""
        words: Sequence[str] = ("cp", "--archive", "--reflink=auto", str(image), str(target))
        if image.suffix == SQUASHFS_SUFFIX:
            words = ("unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-dest", str(target), str(image))
        await self._run(words, self._settings.build_timeout_s)

    async def remove(self, *paths: Path) -> None:
        """Those that are there, with what a container has forbidden itself to write, and mount points of ours."""
        there = [str(one) for one in paths if await asyncio.to_thread(os.path.lexists, one)]
        if there:
            await run(("chmod", "-R", "u+rwX", *there), environment(None), CLEAN_TIMEOUT_S)
            await run(("rm", "-rf", *there), environment(None), CLEAN_TIMEOUT_S)

    # -- a build -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _used(self, image_id: ImageId) -> AsyncIterator[None]:
        self._users[image_id] += 1
        try:
            yield
        finally:
            self._users[image_id] -= 1
            if not self._users[image_id]:
                del self._users[image_id]
                async with self._unused:
                    self._unused.notify_all()

    async def _there(self, image: Image, namespace: str) -> Path:
        directory = self._path(image.id)
        async with self._unused:  # it is not being removed
            for path in (directory, _squashed(directory)):
                if await asyncio.to_thread(path.exists):
                    return path
        self._failures.pop(image.id, None)
        builder = self._builder()
        await self._store.put(MARK, b"")
        async with self._used(image.id), self._one_at_a_time:
            begun = time.monotonic()
            _log.info("building an image on the node", image_id=image.id, source=image.source)
            downloads = Path(builder.downloads(f"{directory}.building"))
            looking = self._tasks.start(f"look at {image.source}", partial(self._look, image, downloads))
            try:
                path = await self._build(image, namespace, builder, directory)
            except MulticriError as error:
                self._failures[image.id] = str(error)[-LONGEST_LOG:]
                self._counts.built(builder.name, "failed", time.monotonic() - begun)
                raise
            finally:
                looking.cancel()
                self._arrived.pop(image.id, None)
            took_s = time.monotonic() - begun
            self._counts.built(builder.name, "ok", took_s)
            self._sizes[image.id] = await asyncio.to_thread(_size, path)
            size_bytes = self._sizes[image.id][0]
        _log.info("image is on the node", image_id=image.id, took_s=round(took_s, 1), size_bytes=size_bytes, path=path)
        return path

    async def _look(self, image: Image, downloads: Path) -> None:
        """See how far its build is, without end. A registry's sizes are those of its layers; the rest is little."""
        told = time.monotonic()
        while True:
            done = await asyncio.to_thread(_length, downloads)
            self._arrived[image.id] = (min(done, image.size_bytes), image.size_bytes)
            if time.monotonic() - told >= TELL_S:
                told = time.monotonic()
                _log.info("still building", image_id=image.id, done_bytes=done, of_bytes=image.size_bytes)
            await asyncio.sleep(LOOK_S)

    async def _build(self, image: Image, namespace: str, builder: ImageBuilder, directory: Path) -> Path:
        building = directory.with_name(f"{directory.name}.building")
        recipe = builder.recipe(await self._pool.build_source(image, namespace), str(building))
        await self._remove_remains(building)
        made, final = building, directory
        try:
            await asyncio.to_thread(self._write, recipe.files)
            for words in recipe.commands:
                await self._run(words, self._settings.build_timeout_s, recipe.environment)
            if self._settings.image_format == "squashfs":
                made, final = _squashed(building), _squashed(directory)
                words = ("ch-convert", "-i", "dir", "-o", "squash", str(building), str(made))
                await self._run(words, self._settings.build_timeout_s)
            await self._run(("sync", "--file-system", str(made)), CLEAN_TIMEOUT_S)
            return await asyncio.to_thread(made.rename, final)
        except FailedPrecondition as error:
            raise build_error(f"image {image.source}", builder.cause(str(error)), str(error)) from error
        finally:
            await self._remove_remains(building)

    async def _remove_remains(self, building: Path) -> None:
        await self.remove(*await asyncio.to_thread(list, self._directory.glob(f"{building.name}*")))

    def _builder(self) -> ImageBuilder:
        for builder in self._builders:
            if builder.name == BUILDER:
                for program in builder.programs:
                    if shutil.which(program) is None:
                        raise FailedPrecondition(f"{program} is not on this node: install the package charliecloud")
                return builder
        raise FailedPrecondition(f"no plug-in among multicri_proxy.image_builders is named {BUILDER}")

    def _path(self, image_id: ImageId) -> Path:
        return self._directory / image_id.removeprefix("sha256:")

    def _write(self, files: Mapping[str, bytes]) -> None:
        """Credentials may be among them."""
        for name, content in files.items():
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                if self._identity:
                    os.fchown(descriptor, self._identity.user_id, self._identity.group_id)

    async def _run(self, words: Sequence[str], timeout_s: float, more: Mapping[str, str] | None = None) -> None:
        env = environment(self._identity, str(self._directory)) | dict(more or {})
        await run(as_identity(words, self._identity), env, timeout_s)


def _rename(image: Path, gone: Path) -> None:
    """What goes is not taken to be there. On the disk."""
    for path in (image, _squashed(image)):
        if path.exists():
            path.rename(gone)


def _squashed(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}{SQUASHFS_SUFFIX}")


def _length(directory: Path) -> int:
    """Of the files in it, in bytes. On the disk."""
    total = 0
    with suppress(OSError):  # it is not there yet, or not any more
        for path in directory.iterdir():
            total += path.stat().st_size
    return total


def _size(path: Path) -> tuple[int, int]:
    """Bytes on the disk, and inodes. Links are not followed; what goes away meanwhile counts for nothing."""
    found = [path.lstat()]
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            try:
                found.append(Path(directory, name).lstat())
            except FileNotFoundError:
                continue
    blocks = {(one.st_dev, one.st_ino): one.st_blocks for one in found}
    return 512 * sum(blocks.values()), len(blocks)
