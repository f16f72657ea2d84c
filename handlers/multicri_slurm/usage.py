"""What running containers use, as sstat tells, else their own scripts.

Asked for in the background, and only while somebody wants to know.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from functools import partial

from multicri_proxy.api.adapter import Phase, Usage
from multicri_proxy.api.board import Board
from multicri_proxy.api.errors import MulticriError
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_slurm.accounts import Account
from multicri_slurm.answers import StepUsage
from multicri_slurm.records import Record, Records, Stage
from multicri_slurm.verbs import ClusterVerbs

INTERVAL_S = 15.0  # how often the kubelet looks by itself, about
WANTED_S = 60.0
PAUSE_PER_QUERY = 5.0
AFTER_FAILURE_S = 300.0

_log = Log("slurm.usage")


class Usages:
    """The last measurement of each container. One question asks for all jobs of an account."""

    def __init__(
        self, records: Records, board: Board, tasks: Tasks, cluster_of: Callable[[Record], ClusterVerbs]
    ) -> None:
        self._records = records
        self._board = board
        self._tasks = tasks
        self._cluster_of = cluster_of
        self._wanted_at: dict[Account, float] = {}
        self._meters: dict[ContainerId, Meter] = {}
        self._complained: set[Account] = set()

    def of(self, container_id: ContainerId) -> Usage | None:
        """From memory. Whoever asks has it measured, now and for a while."""
        record = self._records.get(container_id)
        if record is None or record.stage is not Stage.SUBMITTED:
            return None
        if record.account not in self._wanted_at:
            self._tasks.start(f"measure the jobs of {record.account}", partial(self._measure, record.account))
        self._wanted_at[record.account] = time.monotonic()
        meter = self._meters.get(container_id)
        return meter.usage if meter is not None else None

    async def _measure(self, account: Account) -> None:
        """Until nobody has asked for a while."""
        try:
            while time.monotonic() - self._wanted_at[account] < WANTED_S:
                began = time.monotonic()
                works = await self._measure_once(account)
                pause_s = max(INTERVAL_S, PAUSE_PER_QUERY * (time.monotonic() - began)) if works else AFTER_FAILURE_S
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            del self._wanted_at[account]
            self._forget_ended()

    async def _measure_once(self, account: Account) -> bool:
        running = [
            record
            for record in self._records.all()
            if record.account == account
            and record.allocation_of is None
            and record.stage is Stage.SUBMITTED
            and (report := self._board.latest(record.container_id)) is not None
            and report.phase is Phase.RUNNING
        ]
        self._forget_ended()
        if not running:
            return True
        try:
            cluster = self._cluster_of(running[0])
            told = await cluster.usage({record.directory: record.job_id for record in running if record.job_id})
        except MulticriError as error:
            if account not in self._complained:
                self._complained.add(account)
                _log.warning("what jobs use cannot be measured", account=account, reason=error)
            return False
        now_ns = time.time_ns()
        for record in running:
            meter = self._meters.setdefault(record.container_id, Meter())
            if (reading := told.readings.get(record.directory)) is not None:
                meter.read({"": reading.usage}, reading.measured_at_ns)
            elif record.job_id is not None and (steps := _of_container(record, told.steps.get(record.job_id, {}))):
                meter.read(steps, now_ns)
        return True

    def _forget_ended(self) -> None:
        for container_id in list(self._meters):
            record = self._records.get(container_id)
            if record is None or record.stage is not Stage.SUBMITTED:
                del self._meters[container_id]


def _of_container(record: Record, steps: Mapping[str, StepUsage]) -> Mapping[str, StepUsage]:
    """Of the steps of its job: all, unless others have their own in it."""
    if record.allocation is None:
        return steps
    return {step: told for step, told in steps.items() if step == record.step_id}


class Meter:
    """Adds up a job's steps. Pure, but for what it remembers: a step that has ended is not told of any more."""

    def __init__(self) -> None:
        self._cpu_ns: dict[str, int] = {}
        self.usage: Usage | None = None

    def read(self, steps: Mapping[str, StepUsage], now_ns: int) -> None:
        """now_ns: when it was so; what is no newer than the last tells nothing."""
        if self.usage is not None and now_ns <= self.usage.measured_at_ns:
            return
        for step, told in steps.items():
            self._cpu_ns[step] = max(told.cpu_ns, self._cpu_ns.get(step, 0))
        cpu_ns, before = sum(self._cpu_ns.values()), self.usage
        rate = None
        if before is not None and before.cpu_ns is not None:
            rate = (cpu_ns - before.cpu_ns) * 1_000_000_000 // (now_ns - before.measured_at_ns)
        self.usage = Usage(
            measured_at_ns=now_ns,
            cpu_ns=cpu_ns,
            cpu_nano_cores=rate,
            memory_bytes=sum(told.memory_bytes for told in steps.values()),
            resident_bytes=sum(told.resident_bytes for told in steps.values()),
        )
