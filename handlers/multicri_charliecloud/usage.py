"""What running containers use: measured in the background, and only while somebody wants to know."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from multicri_charliecloud.cgroups import Group, Used, used
from multicri_charliecloud.proc_usage import used_by
from multicri_proxy.api.adapter import Usage
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.tasks import Tasks

INTERVAL_S = 5.0
WANTED_S = 60.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Where to look for what a container uses. pid: of its first process. group: empty if it has none."""

    pid: int
    group: Group


class Usages:
    """The last measurement of each container. running: those that can be measured now."""

    def __init__(self, running: Callable[[], Mapping[ContainerId, Measured]], tasks: Tasks) -> None:
        self._running = running
        self._tasks = tasks
        self._wanted_at: float | None = None
        self._usages: dict[ContainerId, Usage] = {}

    def of(self, container_id: ContainerId) -> Usage | None:
        """From memory. Whoever asks has all of them measured, now and for a while."""
        if self._wanted_at is None:
            self._tasks.start("measure containers", self._measure)
        self._wanted_at = time.monotonic()
        return self._usages.get(container_id)

    async def _measure(self) -> None:
        """Until nobody has asked for a while."""
        try:
            while self._wanted_at is not None and time.monotonic() - self._wanted_at < WANTED_S:
                running = dict(self._running())
                found = await asyncio.to_thread(measure, running)
                now_ns = time.time_ns()
                before = self._usages
                self._usages = {one: usage_of(told, before.get(one), now_ns) for one, told in found.items()}
                await asyncio.sleep(INTERVAL_S)
        finally:
            self._wanted_at = None
            self._usages = {}


def measure(running: Mapping[ContainerId, Measured]) -> dict[ContainerId, Used]:
    """Of one that ended meanwhile there is nothing. Blocks: for threads."""
    found = {one: used(where.group) for one, where in running.items() if where.group}
    lacking = {one: where.pid for one, where in running.items() if found.get(one, Used()) == Used()}
    by_pid = used_by(set(lacking.values())) if lacking else {}
    return found | {one: by_pid[pid] for one, pid in lacking.items() if pid in by_pid}


def usage_of(told: Used, before: Usage | None, now_ns: int) -> Usage:
    """before: of the same container; its processor time never goes back. Pure."""
    cpu_ns, rate = told.cpu_ns, None
    if cpu_ns is not None and before is not None and before.cpu_ns is not None:
        cpu_ns = max(cpu_ns, before.cpu_ns)
        if now_ns > before.measured_at_ns:
            rate = (cpu_ns - before.cpu_ns) * 1_000_000_000 // (now_ns - before.measured_at_ns)
    return Usage(measured_at_ns=now_ns, cpu_ns=cpu_ns, cpu_nano_cores=rate, memory_bytes=told.memory_bytes)
