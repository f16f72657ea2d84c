"""Images on the node: a directory for each, which containers get copies of.

A build belongs to the image, not to the call that wanted it first: a CreateContainer that is cancelled leaves it
running, and the kubelet's retry joins it. There is one build at a time: ch-image does not wait for its storage's lock.
"""

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from multicri_charliecloud.programs import as_identity, environment, run
from multicri_charliecloud.settings import Identity, Settings
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.ids import ImageId
from multicri_proxy.api.image import Image, ImageBuilder, ImagePool
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks

BUILDER = "charliecloud"
CLEAN_TIMEOUT_S = 600.0

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

    async def ready(self, image: Image, namespace: str) -> Path:
        """The image's directory, built if it is not there. namespace: whose credentials a build may use.

        Raises FailedPrecondition with the last words of ch-image, Unavailable if it takes too long.
        """
        build = self._builds.get(image.id)
        if build is None:
            work = partial(self._build, image, namespace)
            build = self._builds[image.id] = self._tasks.outcome(f"build {image.source}", work)
            build.add_done_callback(lambda _: self._builds.pop(image.id, None))
        return await asyncio.shield(build)

    async def _build(self, image: Image, namespace: str) -> Path:
        target = self._directory / image.id.removeprefix("sha256:")
        if await asyncio.to_thread(target.is_dir):
            return target
        builder = self._builder()
        async with self._one_at_a_time:
            building = target.with_name(f"{target.name}.building")
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
            await asyncio.to_thread(building.rename, target)
        _log.info("image is on the node", image_id=image.id, source=image.source)
        return target

    async def copy(self, image: Path, target: Path) -> None:
        """target: must not be there; its directory belongs to the same identity."""
        words = ("cp", "--archive", "--reflink=auto", str(image), str(target))
        await self._run(words, self._settings.build_timeout_s)

    async def remove(self, *directories: Path) -> None:
        """Those that are there, with what a container has forbidden itself to write, and mount points of ours."""
        there = [str(one) for one in directories if await asyncio.to_thread(one.exists)]
        if there:
            await run(("chmod", "-R", "u+rwX", *there), environment(None), CLEAN_TIMEOUT_S)
            await run(("rm", "-rf", *there), environment(None), CLEAN_TIMEOUT_S)

    def _builder(self) -> ImageBuilder:
        for builder in self._builders:
            if builder.name == BUILDER:
                for program in builder.programs:
                    if shutil.which(program) is None:
                        raise FailedPrecondition(f"{program} is not on this node: install the package charliecloud")
                return builder
        raise FailedPrecondition(f"no plug-in among multicri_proxy.image_builders is named {BUILDER}")

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
