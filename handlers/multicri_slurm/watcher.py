"""One watcher for each cluster account: asks for all of its jobs at once, and tells what became of each.

squeue for all; what squeue does not list, sacct and scontrol; what nobody knows twice in a row is lost. A Slurm that
does not answer changes nothing.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from multicri_proxy.api.adapter import Phase
from multicri_proxy.api.errors import MulticriError, PermissionDenied, Unavailable
from multicri_proxy.api.ids import ContainerId, JobId
from multicri_proxy.api.log import Log
from multicri_slurm.accounts import Account
from multicri_slurm.answers import JobLine
from multicri_slurm.retries import within
from multicri_slurm.sites import History
from multicri_slurm.states import JobState, state_named
from multicri_slurm.verbs import ClusterVerbs

FASTEST_S, HURRY_S, GROWTH = 0.7, 15.0, 1.3
PAUSE_PER_QUERY = 5.0  # however much is going on, Slurm is asked for no more than a sixth of the time
JOBS_AT_A_TIME = 200  # between two of these, others have their turn on the event loop
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
UNCLEAR_PATIENCE_S = 5.0
TIMES_UNKNOWN = 2
ACCOUNTING_PATIENCE_S = 900.0  # slurmctld keeps what it has to tell while slurmdbd is away

_log = Log("slurm.watcher")


class Listener(Protocol):
    """Is told what became of jobs. Raises Unavailable if it could not act on it: it is told again."""

    async def job_seen(self, container_id: ContainerId, line: JobLine, state: JobState) -> None:
        """It waits, or runs."""
        ...

    async def job_over(self, container_id: ContainerId, line: JobLine | None, *, only_if_told: bool = False) -> None:
        """line: Slurm's last word; None if it has forgotten the job.

        only_if_told: it is over only if the job has left an exit file.
        """
        ...


@dataclass(slots=True)
class _Watched:
    job_id: JobId
    cluster: ClusterVerbs
    times_unknown: int = 0
    unended_since: float | None = None
    unclear_since: float | None = None


class Wait(Protocol):
    """Waits for an event, not longer than so many seconds; says whether it was set."""

    async def __call__(self, event: asyncio.Event, seconds: float) -> bool: ...


class Watcher:
    """Watches the jobs of one account until it is cancelled. clock, wait: the time that it goes by."""

    def __init__(
        self,
        account: Account,
        listener: Listener,
        poll_interval_s: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = within,
    ) -> None:
        self._account = account
        self._listener = listener
        self._slowest_s = max(poll_interval_s, FASTEST_S)
        self._clock = clock
        self._wait = wait
        self._watched: dict[ContainerId, _Watched] = {}
        self._awake = asyncio.Event()
        self._interval_s = FASTEST_S
        self._hurry_until = 0.0
        self._silent = False
        self._query_s = 0.0
        self._unknown_states: set[str] = set()

    def track(self, container_id: ContainerId, job_id: JobId, cluster: ClusterVerbs) -> None:
        self._watched[container_id] = _Watched(job_id, cluster)
        self.hurry()

    def drop(self, container_id: ContainerId) -> None:
        self._watched.pop(container_id, None)

    def hurry(self) -> None:
        """Something is about to happen: look soon, and often for a while."""
        self._hurry_until = self._clock() + HURRY_S
        if not self._silent and self._interval_s > FASTEST_S:
            self._interval_s = FASTEST_S
            self._awake.set()
        elif not self._interval_s:
            self._awake.set()

    async def run(self) -> None:
        while True:
            if not self._watched:
                self._interval_s = 0.0
                await self._awake.wait()
                self._awake.clear()
            self._interval_s = await self._round()
            await self._wait(self._awake, self._interval_s * random.uniform(0.8, 1.2))  # noqa: S311
            self._awake.clear()

    async def _round(self) -> float:
        """Look once; return how long to wait."""
        try:
            await self._look()
        except MulticriError as error:
            if not self._silent:
                _log.warning("jobs cannot be watched for now", account=self._account, reason=error)
            return self._after_failure()
        except Exception as error:  # a watcher that ends would leave its jobs RUNNING for ever
            _log.defect("jobs cannot be watched for now", error, account=self._account)
            return self._after_failure()
        if self._silent:
            _log.info("jobs are watched again", account=self._account)
            self._silent, self._interval_s = False, FASTEST_S
        fastest_s = max(FASTEST_S, PAUSE_PER_QUERY * self._query_s)
        if self._clock() < self._hurry_until:
            return fastest_s
        return max(fastest_s, min(self._slowest_s, self._interval_s * GROWTH))

    def _after_failure(self) -> float:
        self._silent = True
        return min(LAST_RETRY_S, max(FIRST_RETRY_S, self._interval_s * 2))

    async def _look(self) -> None:
        watched = dict(self._watched)
        clusters = list(dict.fromkeys(entry.cluster for entry in watched.values()))  # one for each login
        began = self._clock()
        queue, cluster = await self._queue(clusters)
        absent = [entry for entry in watched.values() if entry.job_id not in queue]
        absent.sort(key=lambda entry: -entry.times_unknown)  # those that are nearly through go first
        history = await cluster.history([entry.job_id for entry in absent]) if absent else None
        self._query_s = self._clock() - began
        failures: list[Exception] = []
        for number, (container_id, entry) in enumerate(watched.items()):
            if number % JOBS_AT_A_TIME == 0:
                await asyncio.sleep(0)
            try:
                if self._watched.get(container_id) is not entry:
                    continue
                if (line := queue.get(entry.job_id)) is not None:
                    await self._tell(container_id, entry, line)
                elif history is not None:
                    await self._tell_of_absent(container_id, entry, history)
            except Exception as error:  # one job's files that cannot be read are no reason to leave the others RUNNING
                failures.append(error)
        if failures:
            raise failures[0]

    async def _queue(self, clusters: list[ClusterVerbs]) -> tuple[dict[JobId, JobLine], ClusterVerbs]:
        refused: PermissionDenied | None = None
        for cluster in clusters:
            try:
                return dict(await cluster.queue()), cluster
            except PermissionDenied as error:
                refused = error
        raise refused or Unavailable(f"{self._account}: nothing to watch with")

    async def _tell(self, container_id: ContainerId, entry: _Watched, line: JobLine) -> None:
        entry.times_unknown, entry.unended_since = 0, None
        state = state_named(line.state)
        if state is None:
            if line.state not in self._unknown_states:
                self._unknown_states.add(line.state)
                _log.warning("a job state that is in no table changes nothing", state=line.state, job_id=line.job_id)
        elif state.phase is Phase.EXITED:
            await self._listener.job_over(container_id, line)
        elif state.phase is not None:
            entry.unclear_since = None
            await self._listener.job_seen(container_id, line, state)
        else:
            # A flag hides the base state, which tells a time limit from an ordinary end: worth a short wait.
            now = self._clock()
            entry.unclear_since = entry.unclear_since or now
            if now - entry.unclear_since < UNCLEAR_PATIENCE_S:
                self._hurry_until = max(self._hurry_until, now + 1.0)
            else:
                await self._listener.job_over(container_id, line, only_if_told=True)

    async def _tell_of_absent(self, container_id: ContainerId, entry: _Watched, history: History) -> None:
        now = self._clock()
        if (line := history.jobs.get(entry.job_id)) is not None:
            await self._tell(container_id, entry, line)
        elif entry.job_id in history.unended:
            entry.unended_since = entry.unended_since or now
            lost = now - entry.unended_since >= ACCOUNTING_PATIENCE_S
            await self._listener.job_over(container_id, None, only_if_told=not lost)
        elif entry.job_id in history.unknown:
            entry.times_unknown += 1
            lost = entry.times_unknown >= TIMES_UNKNOWN
            await self._listener.job_over(container_id, None, only_if_told=not lost)
        else:  # nobody was asked about it: there are too many like it
            self._hurry_until = max(self._hurry_until, now + 1.0)
