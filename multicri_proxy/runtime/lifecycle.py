"""How containers are started, stopped and removed, in an order that a crash between any two steps does not hurt.

What the adapter does comes first, the record of it after: what a crash leaves in between is a creation that `adopt`
cleans up, a start that `watch` reports, or a removal that the kubelet asks for again.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial

from multicri_proxy.api.adapter import Adapter, Phase, Report
from multicri_proxy.api.errors import FailedPrecondition, MulticriError, NotFound, ResourceExhausted, Unavailable
from multicri_proxy.api.ids import PodSandboxId
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_proxy.runtime.follow import LogPositions
from multicri_proxy.runtime.pods import ContainerEntry, Pods
from multicri_proxy.runtime.records import (
    KILLED_EXIT_CODE,
    START_ERROR_EXIT_CODE,
    Container,
    ContainerState,
    container_ended_by_us,
    container_exited,
    container_started,
)
from multicri_proxy.runtime.retries import Pause, closing, delays_s

log = Log("runtime")

_LONGEST_WAIT_FOR_ADOPTION_S = 10.0


class Lifecycle:
    """Starts, stops and removes containers, one step of each at a time, and follows what the adapter reports.

    drain_timeout_s: how long an exit may wait for the last output, so that ``kubectl logs -f`` sees all of it.
    """

    def __init__(
        self,
        *,
        adapter: Adapter,
        pods: Pods,
        positions: LogPositions,
        tasks: Tasks,
        now_ns: Callable[[], int],
        pause: Pause,
        drain_timeout_s: float,
    ) -> None:
        self._adapter = adapter
        self._pods = pods
        self._positions = positions
        self._tasks = tasks
        self._now_ns = now_ns
        self._pause = pause
        self._drain_timeout_s = drain_timeout_s
        self._adopted = asyncio.Event()

    def begin(self) -> None:
        """Take up the work of the process before, in the background: ordinary pods wait for nothing here."""
        self._tasks.start("adopt", self._adopt)
        self._tasks.start("watch", self._watch)

    async def adopted(self) -> None:
        """Wait until the adapter has taken up its work. Raises Unavailable if that takes long."""
        try:
            async with asyncio.timeout(_LONGEST_WAIT_FOR_ADOPTION_S):
                await self._adopted.wait()
        except TimeoutError as error:
            raise Unavailable(f"{self._adapter.name} has not taken up its work yet; see the log") from error

    async def start(self, entry: ContainerEntry) -> None:
        """Start a container that is CREATED.

        One that is RUNNING is left alone: the caller may not have had the answer to its first call.
        Raises FailedPrecondition if it has exited or its sandbox is not ready.
        """
        await self.adopted()
        async with entry.lock:
            record = _existing(entry)
            if record.state is ContainerState.RUNNING:
                return
            if record.state is not ContainerState.CREATED:
                raise FailedPrecondition(f"container {record.id} is {record.state.value}, and cannot start again")
            self._pods.sandbox(record.sandbox_id).must_be_ready()
            await self._end_earlier_attempts(record)
            if entry.log:
                await entry.log.open()
            try:
                await self._adapter.start_container(record.id)
            except (Unavailable, ResourceExhausted):
                raise  # it stays CREATED, which the kubelet starts anew whatever the pod's restart policy is
            except MulticriError as error:
                # An earlier start whose answer was lost may have come through: only removal is sure to end that.
                await self._adapter.remove_container(record.id)
                await self._end(entry, START_ERROR_EXIT_CODE, "StartError", str(error))
                raise
            await self._has_started(entry)

    async def stop(self, entry: ContainerEntry, grace_period_s: int) -> None:
        """End a container, so that it is EXITED. One that is so already, or removed, is no error."""
        await self.adopted()
        await self._hasten(entry, grace_period_s)
        async with entry.lock:
            if entry.removed or entry.record.state is ContainerState.EXITED:
                return
            if entry.record.state is ContainerState.CREATED:
                # A start whose call was cut off may have come through: only removal is sure to end that.
                await self._adapter.remove_container(entry.record.id)
                await self._end(entry, START_ERROR_EXIT_CODE, "NeverStarted", "stopped before it was started")
            else:
                entry.killed_at = asyncio.get_running_loop().time() + grace_period_s
                try:
                    report = await self._adapter.stop_container(entry.record.id, grace_period_s)
                except NotFound:  # killed between a removal by the adapter and its record
                    await self._end(entry, KILLED_EXIT_CODE, "Removed", "its removal was cut off")
                    return
                finally:
                    entry.killed_at = None
                await self._has_exited(entry, report)

    async def remove(self, entry: ContainerEntry) -> None:
        """Remove a container, by force if it runs."""
        await self.adopted()
        await self._hasten(entry, 0)
        async with entry.lock:
            if entry.removed:
                return
            await self._adapter.remove_container(entry.record.id)
            if entry.log:
                await entry.log.stop()
            await self._positions.forget(entry.record.id)
            await self._pods.delete_container(entry)

    async def end_pod(self, sandbox_id: PodSandboxId) -> None:
        """End what the adapter holds for the pod as a whole."""
        await self.adopted()
        await self._adapter.stop_sandbox(sandbox_id)

    async def _hasten(self, entry: ContainerEntry, grace_period_s: int) -> None:
        """A stop that waits out a longer grace period must not keep this one waiting: then both end together."""
        if entry.killed_at is not None and asyncio.get_running_loop().time() + grace_period_s < entry.killed_at:
            with suppress(NotFound):
                await self._adapter.stop_container(entry.record.id, grace_period_s)

    async def take(self, report: Report) -> None:
        """Apply what the adapter has seen."""
        entry = self._pods.find_container(report.container_id)
        if entry is None:
            return
        before, ran = entry.report, entry.record.state is ContainerState.RUNNING
        entry.report = report
        if report.phase is not Phase.EXITED:
            await self._has_started(entry, report.started_at_ns)
            self._tell(entry, before, ran=ran)
        elif not entry.exiting and entry.record.state is not ContainerState.EXITED:
            entry.exiting = True
            self._tasks.start(f"exit of {report.container_id}", partial(self._exit, entry, report))

    def _tell(self, entry: ContainerEntry, before: Report | None, *, ran: bool) -> None:
        """Of a container that ran before for CRI: a change in an event; why it waits, and that it no longer does, in
        its log."""
        report = entry.report
        if report is None or report == before or entry.removed or entry.record.state is not ContainerState.RUNNING:
            return
        if ran:
            self._pods.tell_of(entry)
        has_waited = before is not None and before.phase is Phase.QUEUED and before.message != ""
        is_news = report.message != "" and (before is None or report.message != before.message)
        if entry.log and is_news and (report.phase is Phase.QUEUED or has_waited):
            entry.log.note(report.message)

    async def _adopt(self) -> None:
        known = [entry.record.id for entry in self._pods.container_entries()]
        await self._surely("the adapter cannot take up its work yet", partial(self._adapter.adopt, known), Exception)
        self._adopted.set()
        for entry in self._pods.container_entries():
            if entry.log and entry.record.state is not ContainerState.CREATED:
                entry.log.follow()

    async def _watch(self) -> None:
        pauses, failing = delays_s(), False
        while True:
            try:
                async with closing(self._adapter.watch()) as reports:
                    async for report in reports:
                        # It may not come again, so it waits for the ledger, and the others with it.
                        await self._surely("a report cannot be recorded yet", partial(self.take, report))
                        pauses, failing = delays_s(), False
            except Exception as error:
                if not failing:
                    self._say("containers are not watched, trying again", error)
                failing = True
            await self._pause(next(pauses))

    async def _exit(self, entry: ContainerEntry, report: Report) -> None:
        await self._surely("an exit cannot be recorded yet", partial(self._has_exited, entry, report))

    async def _surely(
        self,
        message: str,
        step: Callable[[], Coroutine[object, object, None]],
        expected: type[Exception] = MulticriError,
    ) -> None:
        """Try until it is done; what is in its way is said once."""
        pauses, failing = delays_s(), False
        while True:
            try:
                return await step()
            except expected as error:
                if not failing:
                    self._say(message, error)
                failing = True
            await self._pause(next(pauses))

    async def _has_started(self, entry: ContainerEntry, started_at_ns: int | None = None) -> None:
        await self._pods.change_container(
            entry, lambda record: container_started(record, now_ns=self._now_ns(), started_at_ns=started_at_ns)
        )
        if entry.log and not entry.removed:
            entry.log.follow()

    async def _has_exited(self, entry: ContainerEntry, report: Report) -> None:
        if entry.log and not entry.removed:
            entry.log.follow()
            await entry.log.all_copied(self._drain_timeout_s)
        await self._pods.change_container(entry, lambda record: container_exited(record, report, now_ns=self._now_ns()))

    async def _end(self, entry: ContainerEntry, exit_code: int, reason: str, message: str) -> None:
        await self._pods.change_container(
            entry,
            lambda record: container_ended_by_us(
                record, now_ns=self._now_ns(), exit_code=exit_code, reason=reason, message=message
            ),
        )

    async def _end_earlier_attempts(self, record: Container) -> None:
        """End those of the same name: the kubelet makes a new attempt of a container whose start it saw fail.

        That start may have come through all the same, and a pod's container must not run twice.
        """
        for other in self._pods.containers_of(record.sandbox_id):
            if other.record.name != record.name or other.record.attempt >= record.attempt:
                continue
            async with other.lock:
                if other.removed or other.record.state is ContainerState.EXITED:
                    continue
                await self._adapter.remove_container(other.record.id)
                if other.log:
                    await other.log.stop()
                await self._end(other, KILLED_EXIT_CODE, "Superseded", f"attempt {record.attempt} took its place")

    def _say(self, message: str, error: Exception) -> None:
        facts = {"adapter": self._adapter.name}
        if isinstance(error, MulticriError | OSError):
            log.warning(message, error=error, **facts)
        else:
            log.defect(message, error, **facts)


def _existing(entry: ContainerEntry) -> Container:
    if entry.removed:
        raise NotFound(f"container {entry.record.id}")
    return entry.record
