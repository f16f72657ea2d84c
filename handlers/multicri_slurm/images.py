"""The images that accounts have in their clusters: built there, or on the node and sent, when a container wants one;
removed when nobody does.

The build of an image belongs to the account and the image, not to the call that wanted it first: a CreateContainer
that is cancelled leaves it running, and the kubelet's retry joins it. One whose connection is cut goes on there, and
its lock is what the next one waits for.
"""

import asyncio
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from multicri_proxy.api.counts import ImageCounts
from multicri_proxy.api.errors import FailedPrecondition, MulticriError, Unavailable
from multicri_proxy.api.ids import ImageId
from multicri_proxy.api.image import (
    Build,
    BuildSource,
    Image,
    ImageBuilder,
    ImageFile,
    ImagePool,
    SignatureRule,
    build_error,
)
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_slurm import image_scripts
from multicri_slurm.image_places import ImagePlace, ImagePlaces
from multicri_slurm.image_sending import send
from multicri_slurm.image_verbs import BuildAnswer
from multicri_slurm.local_images import DEFINITION, LocalFile
from multicri_slurm.plan import Plan
from multicri_slurm.sites import Site
from multicri_slurm.verbs import ClusterVerbs

BUILDS_OF_ONE_CALL = 3
MOST_FAILURES = 50
FIRST_PAUSE_S, LAST_PAUSE_S, TRIES_TO_FORGET = 2.0, 300.0, 100  # about eight hours

_log = Log("slurm.images")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """An image that a container wants, and who makes it there."""

    plan: Plan
    cluster: ClusterVerbs
    site: Site
    builder: ImageBuilder
    suffix: str
    place: ImagePlace
    definition: LocalFile | None

    @property
    def image(self) -> Image:
        return self.plan.spec.image

    @property
    def file_name(self) -> str:
        return f"{self.place.name}{self.suffix}"

    @property
    def path(self) -> str:
        return f"{self.place.directory}/{self.file_name}"

    @property
    def temporary(self) -> str:
        return f"{self.place.directory}/.{self.place.name}.building{self.suffix}"


class Images:
    """Has images ready for containers.

    cluster_of: who can look after an account that has images. Raises FailedPrecondition if nothing proves it any more.
    """

    def __init__(
        self,
        pool: ImagePool,
        places: ImagePlaces,
        tasks: Tasks,
        cluster_of: Callable[[ImagePlace], ClusterVerbs],
        counts: ImageCounts,
    ) -> None:
        self._pool = pool
        self._places = places
        self._tasks = tasks
        self._cluster_of = cluster_of
        self._counts = counts
        self._building: dict[tuple[str, str, str], asyncio.Future[None]] = {}
        self._failures: dict[tuple[ImageId, str], Build] = {}
        self._arrived: dict[tuple[ImageId, str], tuple[int, int]] = {}  # bytes sent, and of how many, by place
        self._at_once: dict[str, asyncio.Semaphore] = {}

    def adopt(self) -> None:
        """After a start: what is kept of images that the pool does not know any more is left over."""
        for image_id in {place.image_id for place in self._places.all()}:
            if self._pool.find(image_id) is None:
                self._start_forgetting(image_id)

    async def ready(
        self,
        plan: Plan,
        cluster: ClusterVerbs,
        site: Site,
        builder: ImageBuilder,
        holder: str,
        *,
        definition: LocalFile | None = None,
    ) -> str:
        """The image's path in the cluster, built unless it is there.

        holder: the container's directory; the image is there for as long as that is.
        definition: the file in the cluster to build it of, if it comes from no registry.
        Raises what a failed build means, with its builder's last words.
        """
        place = ImagePlace(
            image_id=plan.spec.image.id,
            profile=plan.profile.name,
            account=cluster.login.account,
            directory=_directory(plan, site),
            content=definition.sum if definition else "",
        )
        suffix = builder.suffix
        if suffix and definition is None and not plan.profile.settings.build_in_cluster:
            suffix = await self._pool.file_suffix(builder.name)
        wanted = _Wanted(
            plan=plan, cluster=cluster, site=site, builder=builder, suffix=suffix, place=place, definition=definition
        )
        for _ in range(BUILDS_OF_ONE_CALL):
            size_bytes = await cluster.use_image(place.directory, wanted.file_name, holder)
            if size_bytes is not None:
                await self._places.put(place, size_bytes)
                return wanted.path
            await self._made(wanted)
        raise Unavailable(f"{place.account}: {wanted.path} is gone as soon as it is built")

    async def signature_rule(self, image: Image) -> SignatureRule | None:
        """Raises PermissionDenied if the image has to be signed, and is known not to be."""
        return await self._pool.signature_rule(image)

    def builds(self, image_id: ImageId) -> Sequence[Build]:
        """From memory."""
        building = {where for name, where, _ in self._building if name == image_id}
        built = [
            Build(place=str(place), state="built", size_bytes=size)
            for place, size in self._places.of(image_id).items()
            if str(place) not in building
        ]
        failed = [
            build for (name, where), build in self._failures.items() if name == image_id and where not in building
        ]
        return (*built, *(self._under_way(image_id, where) for where in sorted(building)), *failed)

    def _under_way(self, image_id: ImageId, where: str) -> Build:
        done, of = self._arrived.get((image_id, where), (0, 0))
        return Build(place=where, state="building", done_bytes=done, of_bytes=of)

    async def forget(self, image: Image) -> None:
        """Remove it in every account that has it, in the background, once no container uses it."""
        for key in [key for key in self._failures if key[0] == image.id]:
            del self._failures[key]
        self._start_forgetting(image.id)

    # -- building ------------------------------------------------------------------------------------------------

    async def _made(self, wanted: _Wanted) -> None:
        """Builds with the credentials of several namespaces are several: a wrong one is nobody else's failure.

        What the node has built is sent once for all of them.
        """
        who, namespace = wanted.cluster.login.digest(), wanted.plan.spec.pod.namespace
        if wanted.plan.profile.settings.build_in_cluster or wanted.definition is not None:
            name, work = f"build {wanted.image.source}", partial(self._build, wanted)
            who = f"{who} {namespace} {wanted.place.content}"
        else:
            try:
                file = await self._pool.file(wanted.image, namespace, wanted.builder.name)
            except MulticriError as error:
                self._fail(wanted.place, str(error))
                raise
            name, work = f"send {wanted.image.source}", partial(self._send, wanted, file)
        key = (wanted.image.id, str(wanted.place), who)
        build = self._building.get(key)
        if build is None:
            build = self._building[key] = self._tasks.outcome(name, work)
            build.add_done_callback(lambda _: self._building.pop(key, None))
        await asyncio.shield(build)

    async def _send(self, wanted: _Wanted, file: ImageFile) -> None:
        place, begun = wanted.place, time.monotonic()
        where = (wanted.image.id, str(place))

        def arrived(done_bytes: int) -> None:
            self._arrived[where] = (done_bytes, file.size_bytes)

        async with self._turn(wanted):
            try:
                answer = await send(wanted.cluster, file, place.directory, wanted.file_name, arrived)
            except MulticriError as error:
                self._counts.uploads["failed"] += 1
                self._fail(place, str(error))
                raise
            finally:
                self._arrived.pop(where, None)
        self._counts.uploads["failed" if answer.failed else "ok"] += 1
        if answer.failed:
            self._fail(place, answer.log)
            raise FailedPrecondition(f"{place}: the image could not be unpacked there: {answer.log[-400:]}")
        await self._note(wanted, answer, begun)

    def _turn(self, wanted: _Wanted) -> asyncio.Semaphore:
        profile = wanted.plan.profile
        return self._at_once.setdefault(profile.name, asyncio.Semaphore(profile.settings.builds_at_once))

    async def _build(self, wanted: _Wanted) -> None:
        image, builder, place = wanted.image, wanted.builder, wanted.place
        if wanted.definition is not None:
            source = BuildSource(uri=f"{DEFINITION}:{wanted.definition.path}")
        else:
            source = await self._pool.build_source(image, wanted.plan.spec.pod.namespace)
        recipe = builder.recipe(source, wanted.temporary)
        environment = {f"{wanted.temporary}.env": image_scripts.environment_file(recipe.environment)}
        script = image_scripts.build_script({**recipe.files, **environment})
        commands = [shlex.join(command) for command in recipe.commands]
        async with self._turn(wanted):
            begun = time.monotonic()
            _log.info("building an image", image_id=image.id, source=image.source, place=place, builder=builder.name)
            answer = await wanted.cluster.build_image(
                place.directory, wanted.file_name, script, commands, wanted.site.prerun
            )
        took_s = time.monotonic() - begun
        self._counts.built(builder.name, "failed" if answer.failed else "ok", took_s)
        if answer.failed:
            cause = builder.cause(answer.log)
            self._fail(place, answer.log)
            _log.warning("an image was not built", image_id=image.id, place=place, cause=cause.value)
            raise build_error(
                f"image {image.source}: {builder.name} could not build it in the cluster", cause, answer.log
            )
        await self._note(wanted, answer, begun)

    async def _note(self, wanted: _Wanted, answer: BuildAnswer, begun: float) -> None:
        """It is there. begun: of the monotonic clock."""
        image, place, took_s = wanted.image, wanted.place, time.monotonic() - begun
        self._failures.pop((image.id, str(place)), None)
        await self._places.put(place, answer.size_bytes)
        _log.info(
            "an image is built", image_id=image.id, place=place, took_s=round(took_s, 1), size_bytes=answer.size_bytes
        )
        self._counts.evictions["cluster"] += len(answer.evicted)
        for evicted in answer.evicted:
            name = evicted.partition(" ")[0]
            _log.info("an image was removed to make room", image=name, place=place)
            if (other := self._places.beside(place, name)) is not None:
                await self._places.drop(other)

    def _fail(self, place: ImagePlace, log: str) -> None:
        if len(self._failures) >= MOST_FAILURES:
            del self._failures[next(iter(self._failures))]
        self._failures[place.image_id, str(place)] = Build(place=str(place), state="failed", log=log)

    # -- removing ------------------------------------------------------------------------------------------------

    def _start_forgetting(self, image_id: ImageId) -> None:
        for place in self._places.of(image_id):
            self._tasks.start(f"forget {image_id} in {place}", partial(self._forget, place))

    async def _forget(self, place: ImagePlace) -> None:
        pause_s, reason = FIRST_PAUSE_S, ""
        for _ in range(TRIES_TO_FORGET):
            if self._pool.find(place.image_id) is not None:  # pulled again
                return
            try:
                if await self._cluster_of(place).forget_image(place.directory, place.name):
                    await self._places.drop(place)
                    _log.info("an image was removed", image_id=place.image_id, place=place)
                    return
                reason = "a container uses it"
            except MulticriError as error:
                reason = str(error)
            await asyncio.sleep(pause_s)
            pause_s = min(LAST_PAUSE_S, pause_s * 2)
        _log.error("an image is left in a cluster", image_id=place.image_id, place=place, reason=reason)


def _directory(plan: Plan, site: Site) -> str:
    settings = plan.profile.settings
    where = settings.image_remote_mount or f"{settings.mount_path}/images"
    return where if where.startswith("/") else f"{site.home}/{where}"
