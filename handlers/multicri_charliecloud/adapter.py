"""Containers on the node itself, by ch-run, each under a supervisor of its own that outlives us: the Adapter.

What must not be lost is in files that the supervisor writes; we only look at them. A container is started by whoever
makes its claim, and there is one claim.
"""

import asyncio
import json
import re
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict, replace
from functools import partial
from types import TracebackType
from typing import Literal, Self

from multicri_charliecloud.attaching import follow
from multicri_charliecloud.cgroup_member import remove
from multicri_charliecloud.cgroups import Cgroups, limit
from multicri_charliecloud.directories import ContainerDirectory, Directories, Exit, Started
from multicri_charliecloud.entering import run_inside
from multicri_charliecloud.forwarding import connected
from multicri_charliecloud.images import MARK, Images
from multicri_charliecloud.job import check, refusals
from multicri_charliecloud.output import copied_output
from multicri_charliecloud.preparing import prepare
from multicri_charliecloud.processes import Process, own_program
from multicri_charliecloud.programs import as_identity, environment, run
from multicri_charliecloud.settings import identity_of, read_settings
from multicri_charliecloud.usage import Measured, Usages
from multicri_proxy.api.adapter import (
    Adapter,
    AdapterContext,
    ContainerSpec,
    OutputStream,
    Phase,
    Report,
    Resources,
    Usage,
)
from multicri_proxy.api.board import Board
from multicri_proxy.api.errors import FailedPrecondition, NotFound, Unavailable
from multicri_proxy.api.ids import ContainerId, ImageId, PodSandboxId
from multicri_proxy.api.image import Build, Image, Stored
from multicri_proxy.api.log import Log
from multicri_proxy.api.streams import Connection, Streams
from multicri_proxy.api.tasks import Tasks

START_TIMEOUT_S = 60.0
KILL_WAIT_S = 30.0
HELP_TIMEOUT_S = 10.0
KILLED_EXIT_CODE = 137

_OPTION = re.compile(rb"--[a-z0-9-]+")
_log = Log("charliecloud")


class CharliecloudAdapter:
    """Runs each container as processes of the node."""

    def __init__(self, context: AdapterContext) -> None:
        self._settings = read_settings(context.settings)
        self._identity = identity_of(self._settings)
        self._store = context.store
        self._directories = Directories(self._settings.directory)
        self._tasks = Tasks()
        self._images = Images(
            self._directories.images,
            settings=self._settings,
            identity=self._identity,
            pool=context.images,
            builders=context.image_builders,
            store=context.store,
            tasks=self._tasks,
            counts=context.counts,
        )
        self._cgroups: Cgroups | None = None
        self._measured: dict[ContainerId, Measured] = {}
        self._usages = Usages(lambda: self._measured, self._tasks)
        self._board = Board()
        self._known: set[ContainerId] = set()
        self._namespaces: dict[PodSandboxId, str] = {}
        self._starts: dict[ContainerId, asyncio.Future[None]] = {}
        self._keepers: dict[ContainerId, asyncio.Task[None]] = {}
        self._options: frozenset[str] | None = None

    @property
    def name(self) -> str:
        return "charliecloud"

    async def __aenter__(self) -> Self:
        for key, row in await self._store.items():
            if key == MARK:
                continue
            self._known.add(ContainerId(key))
            if row:
                sandbox_id, namespace = json.loads(row)
                self._namespaces[PodSandboxId(sandbox_id)] = namespace
        await asyncio.to_thread(self._directories.make, self._identity)
        self._cgroups = await asyncio.to_thread(Cgroups.found)
        if self._cgroups is None:
            _log.warning("no control group is delegated to us: limits of containers are not enforced")
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, error, traceback)

    async def adopt(self, known: Collection[ContainerId]) -> None:
        self._images.adopt()
        for container_id in tuple(self._known):
            directory = self._directories.of(container_id)
            if container_id not in known:
                self._sweep(container_id)
            elif await asyncio.to_thread(directory.is_claimed):
                self._keep(container_id)

    async def create_container(self, spec: ContainerSpec) -> None:
        is_root = self._identity is not None
        check(spec, self._settings, is_root=is_root)
        for ignored in refusals(spec, is_root=is_root):
            _log.warning("a demand is ignored, by policy", container_id=spec.id, demand=ignored)
        ch_run, options = await self._ch_run()
        directory = self._directories.of(spec.id)
        await self._store.put(spec.id, json.dumps([spec.pod.sandbox_id, spec.pod.network_namespace]).encode())
        self._namespaces[spec.pod.sandbox_id] = spec.pod.network_namespace
        self._known.add(spec.id)
        try:
            async with self._images.using(spec.image, spec.pod.namespace) as image:
                await asyncio.to_thread(directory.make, self._identity)
                await self._images.copy(image, directory.image)
            await asyncio.to_thread(self._limit, spec, directory)
            await asyncio.to_thread(prepare, spec, directory, ch_run, options, self._identity)
        except asyncio.CancelledError:
            self._sweep(spec.id)
            raise
        except BaseException:
            await asyncio.shield(self._sweep(spec.id))
            raise
        _log.info("container staged", container_id=spec.id, directory=directory.path)

    async def start_container(self, container_id: ContainerId) -> None:
        self._must_know(container_id)
        start = self._starts.get(container_id)
        if start is None:
            start = self._tasks.outcome(f"start {container_id}", partial(self._start, container_id))
            self._starts[container_id] = start
            start.add_done_callback(lambda _: self._starts.pop(container_id, None))
        await asyncio.shield(start)

    async def stop_container(self, container_id: ContainerId, grace_period_s: int) -> Report:
        self._must_know(container_id)
        directory, ended = self._directories.of(container_id), self._board.ended(container_id)
        await self._settled(container_id, directory)
        if grace_period_s > 0 and not ended.is_set():
            job = await asyncio.to_thread(directory.job)
            await self._signal(directory, job["stop_signal"])
            await _within(ended.wait(), grace_period_s)
        if not ended.is_set():
            await self._signal(directory, signal.SIGKILL)
            await _within(ended.wait(), KILL_WAIT_S)
        report = self._board.latest(container_id)
        if report is None or report.phase is not Phase.EXITED:
            raise Unavailable(f"container {container_id} was killed {KILL_WAIT_S:g} s ago, and has not ended")
        return report

    async def remove_container(self, container_id: ContainerId) -> None:
        if container_id not in self._known:
            return
        await self._tasks.finish(f"remove {container_id}", partial(self._remove, container_id))

    async def stop_sandbox(self, sandbox_id: PodSandboxId) -> None:
        """A pod has nothing but its containers."""
        self._namespaces.pop(sandbox_id, None)

    @property
    def joins_pod_network(self) -> Literal[True]:
        return True

    def watch(self) -> AsyncIterator[Report]:
        return self._board.watch()

    def output(self, container_id: ContainerId, stream: OutputStream, offset_bytes: int) -> AsyncIterator[bytes]:
        path = self._directories.of(container_id).output(stream)
        return copied_output(path, offset_bytes, self._board.ended(container_id))

    def usage(self, container_id: ContainerId) -> Usage | None:
        return self._usages.of(container_id)

    async def resize_container(self, container_id: ContainerId, resources: Resources) -> None:
        directory, _ = await self._running(container_id)
        group = await asyncio.to_thread(directory.group)
        if lacking := await asyncio.to_thread(limit, group, resources):
            raise FailedPrecondition(f"{' and '.join(lacking)}: this node delegates no control group for that")

    async def details(self, container_id: ContainerId) -> Mapping[str, str]:
        if container_id not in self._known:
            return {}
        report = self._board.latest(container_id)
        return {
            "directory": str(self._directories.of(container_id).path),
            "account": self._identity.name if self._identity else "",
            "job_state": report.phase.name if report else "CREATED",
        }

    async def exec(self, container_id: ContainerId, command: Sequence[str], streams: Streams) -> int:
        directory, started = await self._running(container_id)
        job = await asyncio.to_thread(directory.job)
        kept = {name: job[name] for name in ("identity", "groups", "working_dir", "variables", "oom_score_adj")}
        kept["cgroup"] = await asyncio.to_thread(directory.group)
        return await run_inside({**kept, **asdict(started), "command": list(command), "tty": streams.tty}, streams)

    async def attach(self, container_id: ContainerId, streams: Streams) -> None:
        directory, started = await self._running(container_id)
        await follow(directory, started, self._board.ended(container_id), streams)

    def connect(self, sandbox_id: PodSandboxId, port: int) -> AbstractAsyncContextManager[Connection]:
        return connected(port, self._namespaces.get(sandbox_id, ""))

    async def bring_image(self, image: Image, namespace: str) -> None:
        async with self._images.using(image, namespace):
            pass

    def stored(self) -> Stored:
        return self._images.stored()

    def builds(self, image_id: ImageId) -> Sequence[Build]:
        return self._images.builds(image_id)

    async def forget_image(self, image: Image) -> None:
        await self._images.forget(image)

    async def _running(self, container_id: ContainerId) -> tuple[ContainerDirectory, Started]:
        """Raises FailedPrecondition if it does not run."""
        directory = self._directories.of(container_id)
        started = await asyncio.to_thread(directory.started)
        if started is None or self._board.ended(container_id).is_set():
            raise FailedPrecondition(f"container {container_id} does not run")
        return directory, started

    # -- a container's life --------------------------------------------------------------------------------------

    async def _start(self, container_id: ContainerId) -> None:
        """Have a supervisor; one that is there already makes this end at once."""
        directory = self._directories.of(container_id)
        try:
            await run((*own_program("supervisor"), str(directory.path)), environment(None), START_TIMEOUT_S)
        except FailedPrecondition as error:
            raise FailedPrecondition(f"container {container_id} cannot be started: {error}") from error
        self._keep(container_id)
        _log.info("container started", container_id=container_id)

    def _keep(self, container_id: ContainerId) -> None:
        if container_id not in self._keepers:
            keeper = self._tasks.start(f"keep {container_id}", partial(self._see_to_its_end, container_id))
            self._keepers[container_id] = keeper
            keeper.add_done_callback(lambda _: self._keepers.pop(container_id, None))

    async def _see_to_its_end(self, container_id: ContainerId) -> None:
        directory = self._directories.of(container_id)
        started = await asyncio.to_thread(directory.started)
        if started is None and await asyncio.to_thread(directory.exit) is None:
            # Claimed by a process before us: a launch waits until that is through, and starts nothing.
            with suppress(FailedPrecondition):
                await run((*own_program("supervisor"), str(directory.path)), environment(None), START_TIMEOUT_S)
            started = await asyncio.to_thread(directory.started)
        if started is not None:
            running = Report(container_id=container_id, phase=Phase.RUNNING, started_at_ns=started.started_at_ns)
            supervisor = Process.find(started.supervisor_pid, started.supervisor_start_time)
            if supervisor is not None:
                self._board.publish(running)
                group = await asyncio.to_thread(directory.group)
                self._measured[container_id] = Measured(started.pid, group)
                try:
                    await supervisor.wait()
                finally:
                    supervisor.close()
                    del self._measured[container_id]
        self._board.publish(await self._last_report(container_id, directory))

    async def _last_report(self, container_id: ContainerId, directory: ContainerDirectory) -> Report:
        """Of one whose supervisor is gone."""
        ended = await asyncio.to_thread(directory.exit)
        if ended is not None:
            return Report(
                container_id=container_id,
                phase=Phase.EXITED,
                started_at_ns=ended.started_at_ns,
                finished_at_ns=ended.finished_at_ns,
                exit_code=ended.code,
                reason=_reason(ended),
                message=ended.message,
            )
        started = await asyncio.to_thread(directory.started)
        if started and (process := Process.find(started.pid, started.start_time)) is not None:
            try:
                process.signal(signal.SIGKILL)
                await _within(process.wait(), KILL_WAIT_S)
            finally:
                process.close()
        return Report(
            container_id=container_id,
            phase=Phase.EXITED,
            started_at_ns=started.started_at_ns if started else None,
            exit_code=KILLED_EXIT_CODE,
            reason="SupervisorLost" if started else "NeverStarted",
            message="its supervisor was killed, or the node was restarted" if started else "it was never started",
        )

    async def _settled(self, container_id: ContainerId, directory: ContainerDirectory) -> None:
        """Once this returns, it runs and is kept, or never will."""
        if (start := self._starts.get(container_id)) is not None:
            await asyncio.wait({start})
        if not self._board.ended(container_id).is_set():
            await asyncio.to_thread(directory.claim)
            self._keep(container_id)

    async def _signal(self, directory: ContainerDirectory, number: int) -> None:
        """To the container's first process; the kernel lets all others follow it."""
        started = await asyncio.to_thread(directory.started)
        if started and (process := Process.find(started.pid, started.start_time)) is not None:
            process.signal(number)
            process.close()

    async def _remove(self, container_id: ContainerId) -> None:
        directory = self._directories.of(container_id)
        if await asyncio.to_thread(directory.path.exists):
            await self.stop_container(container_id, 0)
            if not await asyncio.to_thread(remove, (await asyncio.to_thread(directory.group)).values()):
                raise Unavailable(f"container {container_id}: its control group still has processes")
            await self._images.remove(directory.image)
            await asyncio.to_thread(directory.remove_files)
        await self._store.delete(container_id)
        self._known.discard(container_id)
        self._board.forget(container_id)
        _log.info("container removed", container_id=container_id)

    def _limit(self, spec: ContainerSpec, directory: ContainerDirectory) -> None:
        """Make its control group, if it can have one. Blocks. Raises FailedPrecondition."""
        group = self._cgroups.group(spec.id, spec.pod.cgroup_parent) if self._cgroups else {}
        directory.write_group(group)
        if self._cgroups:
            self._cgroups.make(group)
        request = spec.resources.cpu_request_millicores or 0
        if lacking := limit(group, replace(spec.resources, cpu_request_millicores=request)):
            _log.warning(
                "limits are not enforced: the node delegates no control group for them",
                container_id=spec.id,
                limits=lacking,
            )

    def _sweep(self, container_id: ContainerId) -> "asyncio.Task[None]":
        """What a creation or a removal has left, in the background."""

        async def sweep() -> None:
            try:
                await self._remove(container_id)
            except (FailedPrecondition, Unavailable, OSError) as error:
                _log.warning(
                    "a container's remains are left until the next start", container_id=container_id, error=error
                )

        return self._tasks.start(f"sweep {container_id}", sweep)

    def _must_know(self, container_id: ContainerId) -> None:
        if container_id not in self._known:
            raise NotFound(f"container {container_id}")

    async def _ch_run(self) -> tuple[str, frozenset[str]]:
        """Where it is, and its long options. Raises FailedPrecondition if it is not there."""
        path = shutil.which("ch-run")
        if path is None:
            raise FailedPrecondition("ch-run is not on this node: install the package charliecloud")
        if self._options is None:
            said = await run(as_identity((path, "--help"), self._identity), environment(self._identity), HELP_TIMEOUT_S)
            self._options = frozenset(word.decode() for word in _OPTION.findall(said))
        return path, self._options


def _reason(ended: Exit) -> str:
    if ended.message:
        return "StartError"
    if ended.oom_kills and ended.code:
        return "OOMKilled"
    return "Error" if ended.code else "Completed"


async def _within(waiting: Awaitable[object], timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await waiting


def adapter(context: AdapterContext) -> Adapter:
    """The plug-in: an AdapterFactory."""
    return CharliecloudAdapter(context)
