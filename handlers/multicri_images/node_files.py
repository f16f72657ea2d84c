"""Images that are built on the node, as files for clusters: built when one is wanted, once for everybody."""

import asyncio
import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from multicri_images.building import PATH, Job, known_image, target_of
from multicri_proxy.api.children import ask
from multicri_proxy.api.counts import ImageCounts
from multicri_proxy.api.errors import FailedPrecondition, Unavailable
from multicri_proxy.api.ids import ImageId
from multicri_proxy.api.image import BuildSource, Image, ImageBuilder, ImageFile, Stored, build_error
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks

if TYPE_CHECKING:
    from multicri_images.settings import Settings

PACKER = "mksquashfs"
PACKED_SUFFIX = ".squashfs"
NOBODYS = ""

_SINGULARITIES = ("apptainer", "singularity")
_WANTED = {"apptainer": _SINGULARITIES, "singularity": ("singularity", "apptainer"), "charliecloud": ()}
"""By the container runtime of a cluster, builders whose files it runs. Charliecloud's directory, packed, all run."""

_log = Log("images.node")


class NodeFiles:
    """The directory is the settings'. It is not touched before the first build, or removal."""

    def __init__(
        self, builders: Sequence[ImageBuilder], tasks: Tasks, settings: "Settings", counts: ImageCounts
    ) -> None:
        self._builders = {builder.name: builder for builder in builders}
        self._tasks = tasks
        self._settings = settings
        self._counts = counts
        self._builds: dict[tuple[str, str], asyncio.Future[ImageFile]] = {}
        self._at_once = asyncio.Semaphore(settings.builds_at_once)

    def suffix(self, runtime: str) -> str:
        """Looks for programs, on the disk. Raises FailedPrecondition naming what has to be installed."""
        return self._builder(runtime).suffix or PACKED_SUFFIX

    async def known(self, image: Image, suffix: str) -> tuple[ImageFile, str] | None:
        """The image, if it is there, and whose credentials built it."""
        row = await asyncio.to_thread(known_image, self._settings.directory, _digits(image.id), suffix)
        return (self._file(image, suffix, row), str(row.get("namespace", NOBODYS))) if row is not None else None

    async def build(self, image: Image, runtime: str, source: BuildSource, whose: str) -> ImageFile:
        """Whoever wants the same at the same time, with the same credentials, waits for one build.

        whose: the namespace whose credentials the source has; empty if it has none, or everybody's.
        Raises what a failed build means.
        """
        key = (image.id, whose)
        build = self._builds.get(key)
        if build is None:
            work = partial(self._build, image, runtime, source, whose)
            build = self._builds[key] = self._tasks.outcome(f"build {image.source} on the node", work)
            build.add_done_callback(lambda _: self._builds.pop(key, None))
        return await asyncio.shield(build)

    async def remove(self, image_id: ImageId) -> None:
        await asyncio.to_thread(self._remove, {_digits(image_id)})

    async def remove_others(self, known: Collection[ImageId]) -> None:
        """What is left of images that nobody knows any more. known: as it is by then."""
        names = await asyncio.to_thread(self._names)
        await asyncio.to_thread(self._remove, names - {_digits(image_id) for image_id in known})

    async def _build(self, image: Image, runtime: str, source: BuildSource, whose: str) -> ImageFile:
        settings, builder = self._settings, await asyncio.to_thread(self._builder, runtime)
        target = str(target_of(settings.directory, _digits(image.id), builder.suffix))
        recipe = builder.recipe(source, target)
        job = Job(
            directory=settings.directory,
            name=_digits(image.id),
            suffix=builder.suffix or PACKED_SUFFIX,
            commands=[list(command) for command in recipe.commands],
            environment=dict(recipe.environment),
            files={path: text.decode() for path, text in recipe.files.items()},
            packed=not builder.suffix,
            user=await asyncio.to_thread(_user, settings.build_user),
            timeout_s=settings.build_timeout_s,
            facts={"namespace": whose},
        )
        async with self._at_once:
            _log.info("building an image on the node", image_id=image.id, source=image.source, builder=builder.name)
            begun = time.monotonic()
            try:
                answer = await ask("multicri_images.building", asdict(job))
            except (OSError, ValueError) as error:
                raise Unavailable(f"image {image.source}: its build on the node was killed") from error
        self._counts.built(builder.name, "failed" if "error" in answer else "ok", time.monotonic() - begun)
        if "error" in answer:
            log = str(answer["error"])
            _log.warning("an image was not built on the node", image_id=image.id, cause=builder.cause(log).value)
            raise build_error(f"image {image.source}: {builder.name} on the node", builder.cause(log), log)
        _log.info("an image is on the node", image_id=image.id, size_bytes=answer["size_bytes"])
        return self._file(image, job.suffix, answer)

    def _builder(self, runtime: str) -> ImageBuilder:
        for name in (*_WANTED.get(runtime, ()), "charliecloud"):
            builder = self._builders.get(name)
            if builder is not None and not _missing(builder):
                return builder
        better = "apptainer, or " if _WANTED.get(runtime) else ""
        lacks = ", ".join(_missing(self._builders.get("charliecloud")))
        raise FailedPrecondition(
            f"build_in_cluster: false, and nothing on this node builds images for {runtime} (not found: {lacks}): "
            f"install the package {better}the packages charliecloud and squashfs-tools"
        )

    def _file(self, image: Image, suffix: str, row: dict[str, object]) -> ImageFile:
        return ImageFile(
            path=f"{self._settings.directory}/{_digits(image.id)}{suffix}",
            suffix=suffix,
            size_bytes=int(str(row["size_bytes"])),
            sha256=str(row["sha256"]),
            config=str(row["config"]).encode(),
        )

    def _names(self) -> set[str]:
        return {path.name.partition(".")[0] for path in _paths(self._settings.directory)}

    def _remove(self, names: Collection[str]) -> None:
        for path in _paths(self._settings.directory):
            name, _, kind = path.name.partition(".")
            if name in names and kind != "lock":  # somebody may be building it
                path.unlink(missing_ok=True)


def stored_in(directory: str) -> Stored:
    """What images take there. On the disk. A lock stays for whoever may be building, and is no image."""
    sizes: Counter[ImageId] = Counter()
    inodes = 0
    for path in _paths(directory):
        name, _, kind = path.name.partition(".")
        if kind != "lock":
            with suppress(FileNotFoundError):
                sizes[ImageId(f"sha256:{name}")] += path.stat().st_blocks * 512
                inodes += 1
    return Stored(directory=Path(directory), sizes_bytes=sizes, inodes_used=inodes)


def _paths(directory: str) -> list[Path]:
    """None where nothing was ever built, nor where an ordinary user's daemon may not look: nothing there is its own."""
    try:
        return [one for one in Path(directory).iterdir() if one.is_file()]
    except (FileNotFoundError, PermissionError):
        return []


def _missing(builder: ImageBuilder | None) -> list[str]:
    """What a builder on the node needs and has not: who builds does not run."""
    if builder is None:
        return ["its plug-in"]
    programs = builder.programs if builder.suffix else (*builder.programs[1:], PACKER)
    return [program for program in programs if shutil.which(program, path=PATH) is None]


def _user(name: str) -> tuple[str, int, int] | None:
    """None if we are nobody who could become somebody else."""
    if os.geteuid() != 0:
        return None
    from multicri_images.settings import identity_of  # noqa: PLC0415  (pydantic, for nodes that build)

    identity = identity_of(name)
    return identity.name, identity.user_id, identity.group_id


def _digits(image_id: ImageId) -> str:
    return image_id.removeprefix("sha256:")
