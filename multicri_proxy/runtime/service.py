"""CRI for the pods of one adapter: every method of it, in snake case, from request message to response message."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from multicri_proxy.api.adapter import Adapter
from multicri_proxy.api.counts import ImageCounts
from multicri_proxy.api.errors import InvalidArgument, MulticriError
from multicri_proxy.api.ids import PodSandboxId
from multicri_proxy.api.image import ImagePool
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_proxy.ledger import Ledger
from multicri_proxy.network.pod_network import PodNetwork
from multicri_proxy.runtime.calls import Parts
from multicri_proxy.runtime.containers import ContainerCalls
from multicri_proxy.runtime.events import Events
from multicri_proxy.runtime.follow import ContainerLog, LogPositions
from multicri_proxy.runtime.images import ImageCalls
from multicri_proxy.runtime.jobs import Job, job_of
from multicri_proxy.runtime.lifecycle import Lifecycle
from multicri_proxy.runtime.logfile import LogFile
from multicri_proxy.runtime.node import NodeCalls
from multicri_proxy.runtime.pods import Pods
from multicri_proxy.runtime.records import Container, ContainerState, LogPosition, Sandbox, SandboxState
from multicri_proxy.runtime.retries import Pause
from multicri_proxy.runtime.sandboxes import SandboxCalls
from multicri_proxy.runtime.stats import StatsCalls
from multicri_proxy.runtime.streams import StreamCalls
from multicri_proxy.streaming.server import StreamingServer

log = Log("runtime")

_LOG_THREADS = 4


class Runtime(SandboxCalls, ContainerCalls, StreamCalls, StatsCalls, ImageCalls, NodeCalls):
    """Serves CRI while it is entered. Opens and closes the adapter and the streaming server;
    the ledger and the images are the caller's.

    directory: where the ledger is. handlers: the RuntimeClass handlers that stand for the adapter.
    is_alone: there is no default runtime: every pod is the adapter's, and every image.
    pod_ip: what a pod is told to have that has no network of its own; the kubelet wants one.
    network: makes such networks; None: there are none.
    drain_timeout_s: how long an exit may wait for a container's last output.
    """

    def __init__(
        self,
        *,
        adapter: Adapter,
        images: ImagePool,
        ledger: Ledger,
        directory: Path,
        handlers: tuple[str, ...],
        pod_ip: str,
        streaming: StreamingServer,
        is_alone: bool = False,
        network: PodNetwork | None = None,
        counts: ImageCounts | None = None,
        drain_timeout_s: float = 10.0,
        now_ns: Callable[[], int] = time.time_ns,
        pause: Pause = asyncio.sleep,
    ) -> None:
        if not pod_ip:
            raise InvalidArgument("pod_ip is empty: the kubelet would make a new sandbox again and again")
        self._adapter = adapter
        self._pause = pause
        self._tasks = Tasks()
        self._threads = ThreadPoolExecutor(_LOG_THREADS, thread_name_prefix="logs")
        self._events = Events()
        self._positions = LogPositions(ledger.space("runtime/log-positions"), pause)
        self._saved_positions: dict[str, LogPosition] = {}
        self._pods = Pods(ledger, self._tasks, self._events, now_ns)
        self._lifecycle = Lifecycle(
            adapter=adapter,
            pods=self._pods,
            positions=self._positions,
            tasks=self._tasks,
            now_ns=now_ns,
            pause=pause,
            drain_timeout_s=drain_timeout_s,
        )
        self._network = network or PodNetwork(ledger.space("network"))
        self._stack = AsyncExitStack()
        super().__init__(
            Parts(
                adapter=adapter,
                images=images,
                pods=self._pods,
                lifecycle=self._lifecycle,
                events=self._events,
                directory=directory,
                handlers=handlers,
                is_alone=is_alone,
                pod_ip=pod_ip,
                now_ns=now_ns,
                log_of=self._log_of,
                streaming=streaming,
                network=self._network,
                counts=counts or ImageCounts(),
            )
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(self._threads.shutdown, wait=False)
            self._saved_positions = await self._positions.load()
            await self._pods.load(self._log_of)
            for container_id in self._saved_positions:
                if not self.owns_container(container_id):  # its removal was cut off
                    await self._positions.forget(container_id)
            await stack.enter_async_context(self._adapter)
            stack.push_async_callback(self._close_logs)
            await stack.enter_async_context(self._tasks)
            stack.callback(self._events.close)
            await stack.enter_async_context(self._parts.streaming)
            self._tasks.start("save log positions", self._positions.run)
            self._tasks.start("keep images within their limits", self.keep_within_limits)
            self._lifecycle.begin()
            await stack.enter_async_context(self._network)
            ready = {record.id for record in self._pods.sandboxes() if record.state is SandboxState.READY}
            self._network.begin(ready, self.reach, self._has_moved)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    def owns_sandbox(self, sandbox_id: str) -> bool:
        """Is this a sandbox of ours, by its id or the beginning of it? From memory."""
        return self._pods.has_sandbox(sandbox_id)

    def owns_container(self, container_id: str) -> bool:
        """Is this a container of ours, by its id or the beginning of it? From memory."""
        return self._pods.has_container(container_id)

    def owns_image(self, name: str) -> bool:
        """Is this an image of ours, by a name's form or as the id of one that was pulled? From memory."""
        return self._parts.images.owns(name)

    def counts(self) -> Mapping[str, int]:
        """How many containers there are, by state; one that has not exited counts as its adapter last reported it."""
        return Counter(
            entry.report.phase.value
            if entry.report and entry.record.state is ContainerState.RUNNING
            else entry.record.state.value
            for entry in self._pods.container_entries()
        )

    async def jobs(self) -> AsyncIterator[Job]:
        """Every container, oldest first. From memory."""
        for record in self._pods.containers():
            entry, sandbox = self._pods.find_container(record.id), self._pods.find_sandbox(record.sandbox_id)
            if entry and sandbox:
                details = await self._adapter.details(record.id)
                yield job_of(sandbox.record, entry, details, self._parts.now_ns())
                await asyncio.sleep(0)  # of thousands, none holds up a call

    def _log_of(self, container: Container, sandbox: Sandbox) -> ContainerLog | None:
        if not container.log_path:
            return None
        position = self._saved_positions.get(container.id)
        return ContainerLog(
            container.id,
            LogFile(sandbox.log_directory, container.log_path, position),
            adapter=self._adapter,
            positions=self._positions,
            tasks=self._tasks,
            threads=self._threads,
            pause=self._pause,
        )

    async def _has_moved(self, sandbox_id: PodSandboxId, addresses: Sequence[str]) -> None:
        if entry := self._pods.find_sandbox(sandbox_id):
            await self._pods.move_sandbox(entry, addresses)

    async def _close_logs(self) -> None:
        for entry in self._pods.container_entries():
            if entry.log:
                await entry.log.stop()
        try:
            await self._positions.save_changed()
        except MulticriError as error:
            log.warning("log positions are not saved, the end of some logs will be copied anew", error=error)
