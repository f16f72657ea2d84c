"""Containers as Slurm jobs: the Adapter.

What must not be lost is in a record before it is done. A job is submitted only where no job can be: the remote submit
looks first, under a lock, and the job itself claims its directory before it runs the container.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Literal, Self

from multicri_proxy.api.adapter import Adapter, AdapterContext, ContainerSpec, OutputStream, Phase, Report, Usage
from multicri_proxy.api.board import Board
from multicri_proxy.api.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from multicri_proxy.api.ids import ContainerId, ImageId, JobId, PodSandboxId
from multicri_proxy.api.image import Build, Image
from multicri_proxy.api.log import Log
from multicri_proxy.api.streams import Connection, Streams
from multicri_proxy.api.tasks import Tasks
from multicri_slurm import attach, ports, sshlib
from multicri_slurm.accounts import Login
from multicri_slurm.agents import Agents
from multicri_slurm.allocations import Allocations
from multicri_slurm.carrying import Carrier
from multicri_slurm.cluster import Cluster
from multicri_slurm.exec import Execs
from multicri_slurm.image_places import ImagePlace, ImagePlaces
from multicri_slurm.images import Images
from multicri_slurm.in_flight import InFlight
from multicri_slurm.keys import Keys
from multicri_slurm.output import read_output
from multicri_slurm.plan import Plan, plan
from multicri_slurm.profiles import read_profiles
from multicri_slurm.records import Record, Records, Stage, job_name_of
from multicri_slurm.refresh import Refresher
from multicri_slurm.rest_cluster import RestCluster
from multicri_slurm.retries import until_it_works, within
from multicri_slurm.running import RunningContainers
from multicri_slurm.sites import Signal
from multicri_slurm.ssh import Connections
from multicri_slurm.staging import Stager
from multicri_slurm.sweeping import Sweeper
from multicri_slurm.tail import Tails
from multicri_slurm.usage import Usages
from multicri_slurm.verbs import ClusterVerbs
from multicri_slurm.volumes import Kind
from multicri_slurm.watching import Watching
from multicri_slurm.way_back import Door, WaysBack

SCRIPT_WAIT_S = 5.0
CANCEL_WAIT_S = 60.0  # Slurm's KillWait is 30 s by default
IDLE_S = 300.0
NEVER_STARTED_EXIT_CODE = 137

_log = Log("slurm")


class SlurmAdapter:
    """Runs each container as one batch job, or as a step in one that is its pod's."""

    def __init__(self, context: AdapterContext) -> None:
        self._profiles = read_profiles(context.settings, context.handlers)
        self._records = Records(context.store, context.secrets)
        self._tasks = Tasks()
        self._keys = Keys()
        self._connections = Connections(self._profiles, self._keys)
        self._clusters: dict[str, ClusterVerbs] = {}
        self._carrier = Carrier()
        self._image_places = ImagePlaces(context.store)
        self._images = Images(context.images, self._image_places, self._tasks, self._cluster_with, context.counts)
        self._stager = Stager(context.image_builders, self._images, self._carrier)
        refresh_s = min(profile.settings.volume_refresh_s for profile in self._profiles.all())
        self._refresher = Refresher(self._carrier, self._records, self._cluster_of, refresh_s)
        self._tails = Tails(self._tasks)
        self._board = Board()
        self._watching = Watching(self._records, self._board, self._tasks, self._carrier)
        self._in_flight = InFlight(self._records)
        self._allocations = Allocations(self._records)
        self._usages = Usages(self._records, self._board, self._tasks, self._cluster_of)
        self._running = RunningContainers(self._records, self._board, self._watching, self._cluster_of)
        agents = Agents(self._tasks)
        self._execs = Execs(agents)
        self._ways_back = WaysBack(self._records, self._board, self._tasks, self._running, agents)
        self._submits: dict[ContainerId, asyncio.Future[None]] = {}
        self._sweeper = Sweeper(
            records=self._records,
            board=self._board,
            tasks=self._tasks,
            watching=self._watching,
            allocations=self._allocations,
            cluster_of=self._cluster_of,
            stop=self._end_job,
        )

    @property
    def name(self) -> str:
        return "slurm"

    async def __aenter__(self) -> Self:
        await self._records.load()
        await self._image_places.load()
        await self._tasks.__aenter__()
        self._tasks.start("close idle connections", self._close_idle_connections)
        self._tasks.start("refresh volumes", self._refresher.run)
        if any(profile.settings.way_back for profile in self._profiles.all()):
            self._tasks.start("open ways back", self._ways_back.run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._tasks.__aexit__(kind, error, traceback)
        finally:
            await self._connections.close()

    async def adopt(self, known: Collection[ContainerId]) -> None:
        used = {record.profile for record in self._records.all()} | {
            place.profile for place in self._image_places.all()
        }
        if any(profile.name in used and profile.settings.rest_url is None for profile in self._profiles.all()):
            await sshlib.load()
        self._images.adopt()
        alive = {*known, *self._allocations.used_by(known)}
        for record in self._records.all():
            if record.container_id not in alive:
                self._sweeper.sweep(record)
            elif record.stage is Stage.ENDED and record.report is not None:
                self._board.publish(record.report)
            elif record.stage is Stage.SUBMITTED:
                self._rewatch(record)
            elif record.stage is Stage.SUBMITTING:
                self._tasks.start(f"look up {record.container_id}", partial(self._resolve_later, record.container_id))

    async def create_container(self, spec: ContainerSpec) -> None:
        profile = self._profiles.of_pod(spec.pod)
        the_plan = plan(spec, profile)
        with self._in_flight.one_more(profile, spec.id):
            await self._create(the_plan)

    async def _create(self, the_plan: Plan) -> None:
        spec, profile = the_plan.spec, the_plan.profile
        if the_plan.login.private_key is not None:
            await self._keys.check(the_plan.login.private_key)
        if profile.settings.rest_url is None:
            await sshlib.load()
        if (known := self._records.get(spec.id)) is not None and known.stage is not Stage.STAGING:
            return
        door = Door.new() if the_plan.way_back else None
        if door is not None:
            the_plan = replace(the_plan, env={**the_plan.env, **door.variables(the_plan.env)})
        volumes = await self._carrier.look(spec, profile.settings)
        cluster = self._cluster(the_plan.login)
        cluster.check_options(the_plan.options)
        site = await self._stager.site(the_plan, cluster)
        self._stager.check(the_plan, site, volumes)
        record = Record(
            container_id=spec.id,
            stage=Stage.STAGING,
            account=the_plan.login.account,
            sealed=self._records.seal(spec.id, the_plan.login),
            profile=profile.name,
            directory=self._stager.directory_of(the_plan, site),
            job_name=job_name_of(spec.id),
            results=self._carrier.results_of(spec, site, volumes, profile.settings),
            way_back=self._records.sealed(door.to_bytes(), spec.id) if door is not None else b"",
            message_path=next((volume.host_path for volume in volumes if volume.kind is Kind.MESSAGE), ""),
        )
        try:
            async with self._sweeper.sandbox_of(record):
                if the_plan.pod_model == "allocation-per-pod":
                    allocation = await self._allocations.join(record, the_plan, cluster, self._sweeper.under_way)
                    record = replace(record, allocation=allocation)
                await self._records.put(record)
            staged = await self._stager.stage(the_plan, volumes, cluster, site, record.directory)
            await self._records.change(
                spec.id, stage=Stage.STAGED, published=staged.published, image_signature=staged.signature
            )
        except (asyncio.CancelledError, Unavailable):
            self._sweeper.sweep(record)
            raise
        except BaseException:
            await self._sweeper.undo(record)
            raise
        _log.info("container staged", container_id=spec.id, account=record.account, directory=record.directory)

    async def start_container(self, container_id: ContainerId) -> None:
        record = self._known(container_id)
        if record.stage in {Stage.SUBMITTED, Stage.ENDED}:
            return
        if record.stage is Stage.STAGING:
            raise FailedPrecondition(f"container {container_id}: its creation has not ended")
        submit = self._submits.get(container_id)
        if submit is None:
            submit = self._tasks.outcome(f"submit {container_id}", partial(self._submit, container_id))
            self._submits[container_id] = submit
            submit.add_done_callback(lambda _: self._submits.pop(container_id, None))
        await asyncio.shield(submit)

    async def stop_container(self, container_id: ContainerId, grace_period_s: int) -> Report:
        record = await self._settled(self._known(container_id))
        if record.stage is not Stage.ENDED and record.job_id is None:
            record = await self._never_started(record)
        if record.report is not None:
            return record.report
        cluster, ended = self._cluster_of(record), self._board.ended(container_id)
        if grace_period_s > 0:
            await self._signal(cluster, "TERM", container_id)
            await within(ended, grace_period_s)
        if not ended.is_set():
            await self._signal(cluster, "USR1", container_id)
            await within(ended, SCRIPT_WAIT_S)
        if not ended.is_set():
            await self._signal(cluster, "CANCEL", container_id)
            await within(ended, CANCEL_WAIT_S)
        report = self._board.latest(container_id)
        if not ended.is_set() or report is None:
            raise Unavailable(f"job {record.job_id} of {record.account} was signalled, and Slurm still has it running")
        return report

    async def remove_container(self, container_id: ContainerId) -> None:
        record = self._records.get(container_id)
        if record is not None:
            await self._sweeper.remove(record)

    async def stop_sandbox(self, sandbox_id: PodSandboxId) -> None:
        for allocation in self._allocations.of_sandbox(sandbox_id):
            await self.stop_container(allocation.container_id, 0)

    def watch(self) -> AsyncIterator[Report]:
        return self._board.watch()

    def output(self, container_id: ContainerId, stream: OutputStream, offset_bytes: int) -> AsyncIterator[bytes]:
        record = self._known(container_id)
        return read_output(
            tail_of=partial(self._tails.of, self._cluster_of(record)),
            record=lambda: self._records.get(container_id),
            ended=self._board.ended(container_id),
            hurry=lambda: self._watching.hurry(record.account),
            stream=stream,
            offset=offset_bytes,
        )

    def usage(self, container_id: ContainerId) -> Usage | None:
        return self._usages.of(container_id)

    async def exec(self, container_id: ContainerId, command: Sequence[str], streams: Streams) -> int:
        return await self._execs.run(self._running.of(container_id), command, streams)

    async def attach(self, container_id: ContainerId, streams: Streams) -> None:
        running, output = self._running.of(container_id), partial(self.output, container_id)
        await attach.follow(running, output, self._execs, streams, self._board.ended(container_id))

    @asynccontextmanager
    async def connect(self, sandbox_id: PodSandboxId, port: int) -> AsyncIterator[Connection]:
        async with ports.connected(self._running.newest_in(sandbox_id), port) as connection:
            yield connection

    async def details(self, container_id: ContainerId) -> Mapping[str, str]:
        record = self._records.get(container_id)
        if record is None:
            return {}
        facts = {
            "profile": record.profile,
            "account": str(record.account),
            "directory": record.directory,
            "job_name": record.job_name,
            "job_id": str(record.job_id or ""),
            "step_id": record.step_id,
            "stage": record.stage.value,
            "results": record.results,
            **({"image_signature": record.image_signature} if record.image_signature else {}),
        }
        if (line := self._watching.line_of(container_id)) is not None:
            facts |= {
                "job_state": line.state,
                "queue_reason": line.reason,
                "node_list": line.nodes,
                "cluster_account": line.cluster_account,
            }
        return facts

    def builds(self, image_id: ImageId) -> Sequence[Build]:
        return self._images.builds(image_id)

    async def forget_image(self, image: Image) -> None:
        await self._images.forget(image)

    # -- a job's way into the queue ------------------------------------------------------------------------------

    async def _submit(self, container_id: ContainerId) -> None:
        record = await self._records.change(container_id, stage=Stage.SUBMITTING)
        try:
            if record.allocation is not None:
                await self.start_container(record.allocation)
                if self._known(record.allocation).stage is Stage.ENDED:
                    raise FailedPrecondition(f"container {container_id}: its pod's allocation has just ended")
            job_id = await self._job_of("submit", record)
        except (InvalidArgument, ResourceExhausted):
            await self._records.change(container_id, stage=Stage.STAGED)
            raise
        if job_id is None:
            raise Unavailable(f"{record.account}: no answer to the submit of {record.job_name}")
        await self._submitted(record, job_id)

    async def _job_of(self, mode: Literal["submit", "find", "cancel"], record: Record) -> JobId | None:
        """The job in which a container runs or will run, as `Cluster.job_of` has it."""
        cluster = self._cluster_of(record)
        if record.allocation is None:
            return await cluster.job_of(mode, record.directory, record.job_name)
        allocation = self._allocations.of_member(record)
        try:
            requested = await cluster.step_requested(mode, allocation.directory, record.directory)
        except FailedPrecondition:
            self._watching.hurry(record.account)  # it may be over, which we do not know yet
            raise
        return allocation.job_id if requested else None

    async def _submitted(self, record: Record, job_id: JobId) -> Record:
        now = self._known(record.container_id)
        if now.stage is not Stage.SUBMITTING:  # who looked at the same time was faster
            return now
        record = await self._records.change(record.container_id, stage=Stage.SUBMITTED, job_id=job_id)
        _log.info("job submitted", container_id=record.container_id, account=record.account, job_id=job_id)
        self._board.publish(Report(container_id=record.container_id, phase=Phase.QUEUED))
        self._watching.track(record, job_id, self._cluster_of(record))
        return record

    async def _end_job(self, record: Record) -> None:
        if record.stage in {Stage.SUBMITTING, Stage.SUBMITTED} or record.container_id in self._submits:
            await self.stop_container(record.container_id, 0)

    async def _settled(self, record: Record) -> Record:
        """The record once it is certain whether there is a job; then none will follow unless it was SUBMITTED."""
        if (submit := self._submits.get(record.container_id)) is not None:
            await asyncio.wait({submit})
            record = self._known(record.container_id)
        if record.stage is Stage.SUBMITTING:
            try:
                job_id = await self._job_of("cancel", record)
            except NotFound:
                job_id = None
            if job_id is not None:
                record = await self._submitted(record, job_id)
        return record

    async def _never_started(self, record: Record) -> Record:
        report = Report(
            container_id=record.container_id,
            phase=Phase.EXITED,
            exit_code=NEVER_STARTED_EXIT_CODE,
            reason="Cancelled",
            message="stopped before it was submitted",
        )
        record = await self._records.change(record.container_id, stage=Stage.ENDED, report=report)
        self._board.publish(report)
        return record

    async def _resolve_later(self, container_id: ContainerId) -> None:
        """After a restart: find the job of a submit that nobody saw the end of. If there is none, nothing is done."""

        async def resolve() -> None:
            record = self._records.get(container_id)
            if record is None or record.stage is not Stage.SUBMITTING or container_id in self._submits:
                return
            job_id = await self._job_of("find", record)
            if job_id is not None:
                await self._submitted(record, job_id)

        await until_it_works(resolve, "a job cannot be looked up for now", container_id)

    def _rewatch(self, record: Record) -> None:
        try:
            if record.job_id is not None:
                self._watching.track(record, record.job_id, self._cluster_of(record))
        except FailedPrecondition as error:
            _log.error("a job cannot be watched any more", container_id=record.container_id, reason=error)

    async def _signal(self, cluster: ClusterVerbs, signal: Signal, container_id: ContainerId) -> None:
        record = self._known(container_id)
        if record.job_id is None:
            return
        if record.allocation is None:
            await cluster.signal(signal, record.job_id)
        else:
            allocation = self._allocations.of_member(record)
            await cluster.signal_step(signal, record.job_id, allocation.directory, record.directory)
        self._watching.hurry(cluster.login.account)

    # -- ways to clusters ------------------------------------------------------------------------------------------

    async def _close_idle_connections(self) -> None:
        """Whoever has containers is watched, so an idle connection is one that nobody needs; nor its credentials."""
        idle_s = max(IDLE_S, *(3 * profile.settings.poll_interval_s for profile in self._profiles.all()))
        while True:
            await asyncio.sleep(idle_s / 2)
            for digest, cluster in list(self._clusters.items()):
                if cluster.idle_s() > idle_s:
                    del self._clusters[digest]
                    await self._connections.forget(cluster.login)

    def _known(self, container_id: ContainerId) -> Record:
        record = self._records.get(container_id)
        if record is None:
            raise NotFound(f"container {container_id}")
        return record

    def _cluster_with(self, place: ImagePlace) -> ClusterVerbs:
        """By what a container there brought with it, else by its profile's own credentials."""
        for record in self._records.all():
            if record.account == place.account and record.profile == place.profile:
                return self._cluster_of(record)
        return self._cluster(self._profiles.named(place.profile).login_as(place.account))

    def _cluster_of(self, record: Record) -> ClusterVerbs:
        return self._cluster(self._records.login(record, self._profiles))

    def _cluster(self, login: Login) -> ClusterVerbs:
        """What its profile says leads there. Raises FailedPrecondition if that is gone."""
        if (known := self._clusters.get(login.digest())) is not None:
            return known
        settings = self._profiles.named(login.profile).settings
        way: ClusterVerbs = (
            Cluster(login, self._connections.to(login), settings)
            if settings.rest_url is None
            else RestCluster(login, settings)
        )
        return self._clusters.setdefault(login.digest(), way)


def adapter(context: AdapterContext) -> Adapter:
    """The plug-in: an AdapterFactory. Raises InvalidArgument if a setting is wrong."""
    return SlurmAdapter(context)
