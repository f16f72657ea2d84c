"""Getting a container ready in the cluster: its image built, its directory written.

The build of an image belongs to the account and the image, not to the call that wanted it first: a CreateContainer
that is cancelled leaves it running, and the kubelet's retry joins it.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from multicri_proxy.api.ids import ImageId
from multicri_proxy.api.image import Image, ImageBuilder
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_slurm.carrying import Carrier, Place
from multicri_slurm.cluster import Cluster, Site
from multicri_slurm.image_config import read_image_config
from multicri_slurm.plan import Plan, env_file_of, files_of, has_runtime, launcher_of, programs_of, runtime_of
from multicri_slurm.prerun import prerun_of
from multicri_slurm.records import Published
from multicri_slurm.volumes import Volume

_log = Log("slurm.images")


class Stager:
    """Stages containers."""

    def __init__(self, builders: Sequence[ImageBuilder], carrier: Carrier, tasks: Tasks) -> None:
        self._carrier = carrier
        self._builders = builders
        self._tasks = tasks
        self._builds: dict[tuple[str, ImageId], asyncio.Future[str]] = {}

    async def site(self, plan: Plan, cluster: Cluster) -> Site:
        """What the cluster has; if no container runtime, then what it has after the pod's own CLUSTER_CONFIG.

        Otherwise that text belongs to the job alone: if it fails, the job fails.
        """
        settings, programs = plan.profile.settings, programs_of(self._builders)
        site = await cluster.site(programs, prerun_of(settings.prerun, ""))
        if site.prerun == plan.prerun or has_runtime(site, self._builders, settings):
            return site
        return await cluster.site(programs, plan.prerun)

    def check(self, plan: Plan, site: Site) -> None:
        """Raises InvalidArgument or FailedPrecondition for what the cluster cannot do; touches nothing."""
        _, runtime = runtime_of(site, self._builders, plan.profile.settings)
        env_file_of(plan, runtime)
        launcher_of(plan, site)

    def directory_of(self, plan: Plan, site: Site) -> str:
        spec = plan.spec
        return f"{site.home}/{plan.profile.settings.mount_path}/{spec.pod.sandbox_id}/{spec.id}"

    async def stage(
        self, plan: Plan, volumes: tuple[Volume, ...], cluster: Cluster, site: Site, directory: str
    ) -> tuple[Published, ...]:
        """Have the image built and the container's files written; returns what is to be kept fresh of its volumes."""
        builder, runtime = runtime_of(site, self._builders, plan.profile.settings)
        image_path = await self._image(plan, cluster, site, builder)
        config = await read_image_config(cluster, runtime, image_path)
        place = Place(
            spec=plan.spec,
            cluster=cluster,
            site=site,
            directory=directory,
            runtime=runtime,
            image=image_path,
            mpi=plan.mpi is not None,
        )
        carried = await self._carrier.carry(volumes, place)
        files = files_of(
            plan,
            site=site,
            directory=directory,
            image_path=image_path,
            runtime=runtime,
            config=config,
            binds=carried.binds,
            results_path=carried.results_path,
        )
        if carried.notice:
            files["stderr"] = (carried.notice.encode(), 0o600)  # the job appends to it
        await cluster.write_files(directory, files)
        return carried.published

    def _image_directory(self, plan: Plan, site: Site) -> str:
        settings = plan.profile.settings
        place = settings.image_remote_mount or f"{settings.mount_path}/images"
        return place if place.startswith("/") else f"{site.home}/{place}"

    async def _image(self, plan: Plan, cluster: Cluster, site: Site, builder: ImageBuilder) -> str:
        image = plan.spec.image
        key = (cluster.login.digest(), image.id)
        build = self._builds.get(key)
        if build is None:
            directory = self._image_directory(plan, site)
            work = partial(self._build, cluster, builder, image, directory, site.prerun)
            build = self._builds[key] = self._tasks.outcome(f"build {image.source}", work)
            build.add_done_callback(lambda _: self._builds.pop(key, None))
        return await asyncio.shield(build)

    async def _build(
        self, cluster: Cluster, builder: ImageBuilder, image: Image, directory: str, prerun: bytes | None
    ) -> str:
        account = cluster.login.account
        _log.info("image wanted in the cluster", image_id=image.id, source=image.source, account=account)
        path = await cluster.build(builder, image, directory, prerun)
        _log.info("image is in the cluster", image_id=image.id, source=image.source, account=account)
        return path
