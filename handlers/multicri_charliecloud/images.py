"""Images on the node: a directory or a SquashFS file for each, which containers get copies of.

A build belongs to the image, not to the call that wanted it first: a PullImage or CreateContainer that is cancelled
leaves it running, and the kubelet's retry joins it. There is one build at a time: ch-image does not wait for its
storage's lock.
"""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from multicri_charliecloud.programs import as_identity, environment, run
from multicri_charliecloud.settings import Identity, Settings
from multicri_proxy.api.errors import FailedPrecondition, MulticriError
from multicri_proxy.api.ids import ImageId
from multicri_proxy.api.image import Build, Image, ImageBuilder, ImagePool, Stored
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks

BUILDER = "charliecloud"
SQUASHFS_SUFFIX = ".sqfs"
CLEAN_TIMEOUT_S = 600.0
LONGEST_LOG = 4096

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
        tasks: Tasks,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._identity = identity
        self._pool = pool
        self._builders = builders
        self._tasks = tasks
        self._one_at_a_time = asyncio.Lock()
        self._builds: dict[ImageId, asyncio.Future[Path]] = {}
        self._failures: dict[ImageId, str] = {}
        self._sizes: dict[ImageId, tuple[int, int]] = {}  # bytes and inodes
        self._copies: Counter[Path] = Counter()
        self._copied = asyncio.Condition()

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
        for image_id, path in found.items():
            self._sizes[image_id] = await asyncio.to_thread(_size, path)

    async def ready(self, image: Image, namespace: str) -> Path:
        """What the image is on the node, built if it is not there. namespace: whose credentials a build may use.

        Raises FailedPrecondition with the last words of ch-image, Unavailable if it takes too long.
        """
        build = self._builds.get(image.id)
        if build is None:
            work = partial(self._ready, image, namespace)
            build = self._builds[image.id] = self._tasks.outcome(f"build {image.source}", work)
            build.add_done_callback(lambda _: self._builds.pop(image.id, None))
        return await asyncio.shield(build)

    def builds(self, image_id: ImageId) -> Sequence[Build]:
        """What became of an image here."""
        place, log = str(self._path(image_id)), self._failures.get(image_id, "")
        if image_id in self._sizes:
            return (Build(place=place, state="built", size_bytes=self._sizes[image_id][0]),)
        if image_id in self._builds:
            return (Build(place=place, state="building"),)
        return (Build(place=place, state="failed", log=log),) if log else ()

    def stored(self) -> Stored:
        return Stored(
            directory=self._directory,
            sizes_bytes={image_id: size_bytes for image_id, (size_bytes, _) in self._sizes.items()},
            inodes_used=sum(inodes for _, inodes in self._sizes.values()),
        )

    def forget(self, image: Image) -> None:
        """Remove what was built of it, in the background: containers have copies of their own."""
        self._failures.pop(image.id, None)

        async def remove() -> None:
            if (build := self._builds.get(image.id)) is not None:
                await asyncio.wait({build})
            if self._pool.find(image.id) is not None:  # pulled again meanwhile
                return
            self._sizes.pop(image.id, None)
            path = self._path(image.id)
            async with self._copied:
                await self._copied.wait_for(lambda: not self._copies[path] and not self._copies[_squashed(path)])
            await self.remove(path, _squashed(path))
            _log.info("image removed from the node", image_id=image.id, source=image.source)

        self._tasks.start(f"remove image {image.id}", remove)

    async def copy(self, image: Path, target: Path) -> None:
        """target: must not be there; its directory belongs to the same identity."""
        words: Sequence[str] = ("cp", "--archive", "--reflink=auto", str(image), str(target))
        if image.suffix == SQUASHFS_SUFFIX:
            words = ("unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-dest", str(target), str(image))
        self._copies[image] += 1
        try:
            await self._run(words, self._settings.build_timeout_s)
        finally:
            self._copies[image] -= 1
            async with self._copied:
                self._copied.notify_all()

    async def remove(self, *paths: Path) -> None:
        """Those that are there, with what a container has forbidden itself to write, and mount points of ours."""
        there = [str(one) for one in paths if await asyncio.to_thread(os.path.lexists, one)]
        if there:
            await run(("chmod", "-R", "u+rwX", *there), environment(None), CLEAN_TIMEOUT_S)
            await run(("rm", "-rf", *there), environment(None), CLEAN_TIMEOUT_S)

    # -- a build -------------------------------------------------------------------------------------------------

    async def _ready(self, image: Image, namespace: str) -> Path:
        directory = self._path(image.id)
        for path in (directory, _squashed(directory)):
            if await asyncio.to_thread(path.exists):
                return path
        self._failures.pop(image.id, None)
        try:
            path = await self._build(image, namespace, directory)
        except MulticriError as error:
            self._failures[image.id] = str(error)[-LONGEST_LOG:]
            raise
        self._sizes[image.id] = await asyncio.to_thread(_size, path)
        _log.info("image is on the node", image_id=image.id, source=image.source, path=path)
        return path

    async def _build(self, image: Image, namespace: str, directory: Path) -> Path:
        builder = self._builder()
        async with self._one_at_a_time:
            building = directory.with_name(f"{directory.name}.building")
            await self.remove(*await asyncio.to_thread(list, self._directory.glob(f"{building.name}*")))
            recipe = builder.recipe(await self._pool.build_source(image, namespace), str(building))
            try:
                await asyncio.to_thread(self._write, recipe.files)
                for words in recipe.commands:
                    await self._run(words, self._settings.build_timeout_s, recipe.environment)
            except FailedPrecondition as error:
                cause = builder.cause(str(error))
                raise FailedPrecondition(f"image {image.source}: {cause.value}: {error}") from error
            finally:
                await self.remove(*map(Path, recipe.files))
            if self._settings.image_format == "directory":
                return await asyncio.to_thread(building.rename, directory)
            squashed = _squashed(building)
            words = ("ch-convert", "-i", "dir", "-o", "squash", str(building), str(squashed))
            await self._run(words, self._settings.build_timeout_s)
            await self.remove(building)
            return await asyncio.to_thread(squashed.rename, _squashed(directory))

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


def _squashed(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}{SQUASHFS_SUFFIX}")


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
