"""Getting a container ready in the cluster: its image built, its directory written."""

from collections.abc import Sequence
from dataclasses import dataclass

from multicri_proxy.api.image import ImageBuilder
from multicri_slurm.carrying import Carrier, Place
from multicri_slurm.image_config import read_image_config
from multicri_slurm.image_signatures import signature_of
from multicri_slurm.images import Images
from multicri_slurm.local_images import LocalFile, check_definition, file_of, is_local, volume_of
from multicri_slurm.plan import Plan, env_file_of, files_of, has_runtime, launcher_of, programs_of, runtime_of
from multicri_slurm.prerun import prerun_of
from multicri_slurm.records import Published
from multicri_slurm.runtimes import Runtime
from multicri_slurm.sites import Site
from multicri_slurm.verbs import ClusterVerbs
from multicri_slurm.volumes import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """published: what is to be kept fresh of the container's volumes. signature: of its image, for a human."""

    published: tuple[Published, ...]
    signature: str


class Stager:
    """Stages containers."""

    def __init__(self, builders: Sequence[ImageBuilder], images: Images, carrier: Carrier) -> None:
        self._builders = builders
        self._images = images
        self._carrier = carrier

    async def site(self, plan: Plan, cluster: ClusterVerbs) -> Site:
        """What the cluster has; if no container runtime, then what it has after the pod's own CLUSTER_CONFIG.

        Otherwise that text belongs to the job alone: if it fails, the job fails.
        """
        settings, programs = plan.profile.settings, programs_of(self._builders)
        site = await cluster.site(programs, prerun_of(settings.prerun, ""))
        if site.prerun == plan.prerun or has_runtime(site, self._builders, settings):
            return site
        return await cluster.site(programs, plan.prerun)

    def check(self, plan: Plan, site: Site, volumes: tuple[Volume, ...]) -> None:
        """Raises InvalidArgument or FailedPrecondition for what the cluster cannot do; touches nothing."""
        if is_local(plan.spec.image):
            check_definition(plan)
            volume_of(plan.spec.image, volumes)
        _, runtime = runtime_of(site, self._builders, plan.profile.settings)
        env_file_of(plan, runtime)
        launcher_of(plan, site)

    def directory_of(self, plan: Plan, site: Site) -> str:
        spec = plan.spec
        return f"{site.home}/{plan.profile.settings.mount_path}/{spec.pod.sandbox_id}/{spec.id}"

    async def stage(
        self, plan: Plan, volumes: tuple[Volume, ...], cluster: ClusterVerbs, site: Site, directory: str
    ) -> Staged:
        """Have the image built and the container's files written."""
        rule = await self._images.signature_rule(plan.spec.image)
        builder, runtime = runtime_of(site, self._builders, plan.profile.settings)
        if is_local(plan.spec.image):
            local = await self._local(plan, volumes, cluster, site, runtime)
            image_path, config = local.path, local.config
            if local.form == "definition":
                image_path = await self._images.ready(plan, cluster, site, builder, directory, definition=local)
        else:
            image_path = await self._images.ready(plan, cluster, site, builder, directory)
            config = await read_image_config(cluster, runtime, image_path)
        signature = await signature_of(cluster, runtime, plan.spec.image, image_path, rule)
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
        return Staged(published=carried.published, signature=signature)

    async def _local(
        self, plan: Plan, volumes: tuple[Volume, ...], cluster: ClusterVerbs, site: Site, runtime: Runtime
    ) -> LocalFile:
        """The image that the container brings in its volume."""
        image = plan.spec.image
        directory = self._carrier.mounted(site, volume_of(image, volumes), plan.profile.settings)
        found = await cluster.look_at_image(directory, image.source.partition(":")[2], image.scheme)
        return file_of(image, directory, found, runtime)
