"""Every sandbox and container that the adapter has, in memory and in the ledger.

A change is in the ledger before anybody sees it, and is finished even if the call that asked for it is cancelled.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from multicri_proxy.api.adapter import Report
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, NotFound
from multicri_proxy.api.ids import ContainerId, PodSandboxId
from multicri_proxy.api.tasks import Tasks
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.ledger import Ledger
from multicri_proxy.runtime import messages
from multicri_proxy.runtime.events import Events
from multicri_proxy.runtime.filters import ids_that_match
from multicri_proxy.runtime.follow import ContainerLog
from multicri_proxy.runtime.records import (
    Container,
    ContainerState,
    Sandbox,
    SandboxState,
    sandbox_stopped,
    sandbox_with_network,
)
from multicri_proxy.runtime.rows import container_from_row, row_of, sandbox_from_row

_Id = TypeVar("_Id", bound=str)
_Entry = TypeVar("_Entry")

_ID_DIGITS = 64

_EVENTS = {
    ContainerState.RUNNING: cri.CONTAINER_STARTED_EVENT,
    ContainerState.EXITED: cri.CONTAINER_STOPPED_EVENT,
}


@dataclass(slots=True, kw_only=True)
class SandboxEntry:
    """A sandbox now. stopping: while its containers are being ended, none may be added."""

    record: Sandbox
    stopping: bool = False
    removed: bool = False

    def must_be_ready(self) -> None:
        """Raises FailedPrecondition unless containers may be made and started in it."""
        if self.stopping or self.removed or self.record.state is not SandboxState.READY:
            raise FailedPrecondition(f"sandbox {self.record.id} is not ready")


@dataclass(slots=True, kw_only=True)
class ContainerEntry:
    """A container now.

    lock: held by the one call that starts, stops or removes it. report: the adapter's last.
    killed_at: when a stop that is under way kills it, on the event loop's clock.
    exiting: its exit is known, and is told once its output is copied. log: None if it has no log path.
    """

    record: Container
    log: ContainerLog | None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    killed_at: float | None = None
    report: Report | None = None
    exiting: bool = False
    removed: bool = False


class Pods:
    """The table of everything, with look-up by id or the beginning of one."""

    def __init__(self, ledger: Ledger, tasks: Tasks, events: Events, now_ns: Callable[[], int]) -> None:
        self._sandbox_rows = ledger.space("runtime/sandboxes")
        self._container_rows = ledger.space("runtime/containers")
        self._tasks = tasks
        self._events = events
        self._now_ns = now_ns
        self._sandboxes: dict[PodSandboxId, SandboxEntry] = {}
        self._containers: dict[ContainerId, ContainerEntry] = {}

    async def load(self, log_of: Callable[[Container, Sandbox], ContainerLog | None]) -> None:
        """Take up what the process before has left."""
        for _, row in await self._sandbox_rows.items():
            sandbox = sandbox_from_row(row)
            self._sandboxes[sandbox.id] = SandboxEntry(record=sandbox)
        for key, row in await self._container_rows.items():
            container = container_from_row(row)
            if container.sandbox_id in self._sandboxes:
                log = log_of(container, self._sandboxes[container.sandbox_id].record)
                self._containers[container.id] = ContainerEntry(record=container, log=log)
            else:  # its removal was cut off
                await self._container_rows.delete(key)

    def find_sandbox(self, text: str) -> SandboxEntry | None:
        """By id or beginning. Raises InvalidArgument if several begin so."""
        return _find("sandbox", text, self._sandboxes)

    def find_container(self, text: str) -> ContainerEntry | None:
        """By id or beginning. Raises InvalidArgument if several begin so."""
        return _find("container", text, self._containers)

    def sandbox(self, text: str) -> SandboxEntry:
        """Raises NotFound."""
        return _found("sandbox", text, self.find_sandbox(text))

    def container(self, text: str) -> ContainerEntry:
        """Raises NotFound."""
        return _found("container", text, self.find_container(text))

    def has_sandbox(self, text: str) -> bool:
        return bool(_matches(text, self._sandboxes))

    def has_container(self, text: str) -> bool:
        return bool(_matches(text, self._containers))

    def sandboxes(self) -> list[Sandbox]:
        """All, oldest first."""
        return sorted((entry.record for entry in self._sandboxes.values()), key=lambda record: record.created_at_ns)

    def containers(self) -> list[Container]:
        """All, oldest first."""
        return sorted((entry.record for entry in self._containers.values()), key=lambda record: record.created_at_ns)

    def container_entries(self) -> Sequence[ContainerEntry]:
        return list(self._containers.values())

    def containers_of(self, sandbox_id: PodSandboxId) -> list[ContainerEntry]:
        """Oldest first."""
        entries = [entry for entry in self._containers.values() if entry.record.sandbox_id == sandbox_id]
        return sorted(entries, key=lambda entry: entry.record.created_at_ns)

    async def add_sandbox(self, record: Sandbox) -> None:
        async def write() -> None:
            await self._sandbox_rows.put(record.id, row_of(record))
            self._sandboxes[record.id] = SandboxEntry(record=record)
            self._publish(record.id, record.id, cri.CONTAINER_CREATED_EVENT)
            self._publish(record.id, record.id, cri.CONTAINER_STARTED_EVENT)

        await self._tasks.finish(f"add sandbox {record.id}", write)

    async def stop_sandbox(self, entry: SandboxEntry) -> None:
        """Make it NOTREADY."""

        async def write() -> None:
            after = sandbox_stopped(entry.record)
            if after != entry.record and not entry.removed:
                await self._sandbox_rows.put(after.id, row_of(after))
                entry.record = after
                self._publish(after.id, after.id, cri.CONTAINER_STOPPED_EVENT)

        await self._tasks.finish(f"stop sandbox {entry.record.id}", write)

    async def move_sandbox(self, entry: SandboxEntry, addresses: Sequence[str]) -> None:
        """Give it other IPs, if it is READY."""

        async def write() -> None:
            after = sandbox_with_network(entry.record, addresses)
            if after != entry.record and not entry.removed:
                await self._sandbox_rows.put(after.id, row_of(after))
                if entry.record.state is after.state and not entry.removed:
                    entry.record = after
                    self._publish(after.id, after.id, cri.CONTAINER_STARTED_EVENT)

        await self._tasks.finish(f"move sandbox {entry.record.id}", write)

    async def delete_sandbox(self, entry: SandboxEntry) -> None:
        """Its containers are gone by now."""
        sandbox_id = entry.record.id

        async def write() -> None:
            await self._sandbox_rows.delete(sandbox_id)
            entry.removed = True
            if self._sandboxes.pop(sandbox_id, None):
                self._publish(sandbox_id, sandbox_id, cri.CONTAINER_DELETED_EVENT)

        await self._tasks.finish(f"delete sandbox {sandbox_id}", write)

    async def add_container(self, sandbox: SandboxEntry, record: Container, log: ContainerLog | None) -> None:
        """Raises FailedPrecondition if the sandbox is not ready, also if it ceases to be meanwhile."""

        async def write() -> None:
            sandbox.must_be_ready()
            await self._container_rows.put(record.id, row_of(record))
            try:
                sandbox.must_be_ready()
            except FailedPrecondition:
                await self._container_rows.delete(record.id)
                raise
            self._containers[record.id] = ContainerEntry(record=record, log=log)
            self._publish(record.id, record.sandbox_id, cri.CONTAINER_CREATED_EVENT)

        await self._tasks.finish(f"add container {record.id}", write)

    async def change_container(self, entry: ContainerEntry, change: Callable[[Container], Container]) -> None:
        """Apply a change to the record as it is when its turn comes. One that was removed stays removed."""

        async def write() -> None:
            async with entry.writing:
                before = entry.record
                after = change(before)
                if after == before or entry.removed:
                    return
                await self._container_rows.put(after.id, row_of(after))
                entry.record = after
                if after.state is not before.state:
                    self._publish(after.id, after.sandbox_id, _EVENTS[after.state])

        await self._tasks.finish(f"change container {entry.record.id}", write)

    def tell_of(self, entry: ContainerEntry) -> None:
        """Have listeners look at a container that runs: what its status says is not what it was."""
        self._publish(entry.record.id, entry.record.sandbox_id, cri.CONTAINER_STARTED_EVENT)

    async def delete_container(self, entry: ContainerEntry) -> None:
        container_id, sandbox_id = entry.record.id, entry.record.sandbox_id

        async def write() -> None:
            async with entry.writing:
                await self._container_rows.delete(container_id)
                entry.removed = True
                if self._containers.pop(container_id, None):
                    self._publish(container_id, sandbox_id, cri.CONTAINER_DELETED_EVENT)

        await self._tasks.finish(f"delete container {container_id}", write)

    def statuses_of(self, sandbox: Sandbox) -> list[cri.ContainerStatus]:
        """The statuses of a pod's containers, oldest first."""
        entries = self.containers_of(sandbox.id)
        return [messages.container_status(entry.record, sandbox.log_directory, entry.report) for entry in entries]

    def _publish(self, object_id: str, sandbox_id: PodSandboxId, kind: cri.ContainerEventType) -> None:
        event = cri.ContainerEventResponse(container_id=object_id, container_event_type=kind, created_at=self._now_ns())
        if entry := self._sandboxes.get(sandbox_id):
            event.pod_sandbox_status.CopyFrom(messages.pod_sandbox_status(entry.record))
            event.containers_statuses.extend(self.statuses_of(entry.record))
        self._events.publish(event)


def _find(kind: str, text: str, entries: Mapping[_Id, _Entry]) -> _Entry | None:
    matches = _matches(text, entries)
    if len(matches) > 1:
        raise InvalidArgument(f"{text!r} is the beginning of {len(matches)} {kind} ids: give more of it")
    return matches[0] if matches else None


def _matches(text: str, entries: Mapping[_Id, _Entry]) -> list[_Entry]:
    """Nearly every id that comes by is whole, and most are another runtime's: they cost one look-up."""
    entry = cast("Mapping[str, _Entry]", entries).get(text)
    if entry is not None:
        return [entry]
    return [entries[one] for one in ids_that_match(text, entries)] if len(text) < _ID_DIGITS else []


def _found(kind: str, text: str, entry: _Entry | None) -> _Entry:
    if entry is None:
        raise NotFound(f"{kind} {text!r}")
    return entry
