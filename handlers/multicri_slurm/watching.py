"""From what the watchers see to what is recorded and reported."""

import re
import time
from dataclasses import replace

from multicri_proxy.api.adapter import Phase, Report
from multicri_proxy.api.board import Board
from multicri_proxy.api.ids import ContainerId, JobId
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_slurm.accounts import Account
from multicri_slurm.answers import JobLine
from multicri_slurm.carrying import Carrier
from multicri_slurm.ending import Remains, gather, has_ended, started_at_ns, step_of
from multicri_slurm.records import Record, Records, Stage
from multicri_slurm.script import REQUEUED
from multicri_slurm.states import JobState
from multicri_slurm.verbs import ClusterVerbs
from multicri_slurm.watcher import Watcher

WORTH_TELLING_S = 2.0
LONGEST_SENTENCE = 400

_FIRST_WORD = re.compile(r"[A-Za-z]+")
_log = Log("slurm")


class Watching:
    """The watchers by account, and their Listener."""

    def __init__(self, records: Records, board: Board, tasks: Tasks, carrier: Carrier) -> None:
        self._records = records
        self._board = board
        self._tasks = tasks
        self._carrier = carrier
        self._watchers: dict[Account, Watcher] = {}
        self._clusters: dict[ContainerId, ClusterVerbs] = {}
        self._lines: dict[ContainerId, JobLine] = {}
        self._waiting_since: dict[ContainerId, float] = {}
        self._requeued: set[ContainerId] = set()
        self._seen_ended: set[ContainerId] = set()

    def track(self, record: Record, job_id: JobId, cluster: ClusterVerbs) -> None:
        watcher = self._watchers.get(record.account)
        if watcher is None:
            watcher = self._watchers[record.account] = Watcher(record.account, self, cluster.settings.poll_interval_s)
            self._tasks.start(f"watch {record.account}", watcher.run)
        self._clusters[record.container_id] = cluster
        watcher.track(record.container_id, job_id, cluster)

    def drop(self, record: Record) -> None:
        """Watch its job no longer, and forget what was seen of it."""
        self._lines.pop(record.container_id, None)
        self._unwatch(record)

    def hurry(self, account: Account) -> None:
        if (watcher := self._watchers.get(account)) is not None:
            watcher.hurry()

    def line_of(self, container_id: ContainerId) -> JobLine | None:
        """What Slurm last said of the container's job."""
        return self._lines.get(container_id)

    async def job_seen(self, container_id: ContainerId, line: JobLine, state: JobState) -> None:
        record, known = self._records.get(container_id), self._board.latest(container_id)
        if record is None or record.stage is not Stage.SUBMITTED:
            return
        self._lines[container_id] = line
        if state.phase is Phase.QUEUED and known is not None and known.phase is Phase.RUNNING:
            await self._cancel_requeued(record, line)
            return
        if record.allocation is not None and await self._step_over(record, line):
            return
        if state.phase is Phase.QUEUED:
            self._waits(record, line, state)
            return
        self._waiting_since.pop(container_id, None)
        started_ns = known.started_at_ns if known is not None and known.phase is Phase.RUNNING else None
        if started_ns is None:
            cluster = self._clusters[container_id]
            started_ns = await started_at_ns(cluster, record.directory)
            if record.allocation is not None:
                if started_ns is None:  # the job runs, the container not yet
                    return
                await self._records.change(container_id, step_id=await step_of(cluster, record.directory))
            started_ns = started_ns or time.time_ns()
            self.hurry(record.account)
        self._board.publish(
            Report(
                container_id=container_id,
                phase=Phase.RUNNING,
                started_at_ns=started_ns,
                reason=state.reason,
                message=_sentence(line) if state.reason else _short(f"job {line.job_id} runs on {line.nodes}"),
            )
        )

    async def _step_over(self, record: Record, line: JobLine) -> bool:
        """Record the end of a container that ended by itself, while its allocation goes on.

        The end of the allocation ends its containers, too: only a look at the queue that begins when a container has
        been seen to have ended can tell the one from the other.
        """
        cluster = self._clusters[record.container_id]
        if record.container_id in self._seen_ended:
            await self._carrier.bring_message(record, cluster)
            await self._end(record, line, await gather(cluster, record, None))
            return True
        if await has_ended(cluster, record.directory):
            self._seen_ended.add(record.container_id)
            self.hurry(record.account)
        return False

    def _waits(self, record: Record, line: JobLine, state: JobState) -> None:
        """Tell why, unless it has just begun to: most jobs of an idle cluster wait for a moment, for many reasons."""
        since = self._waiting_since.setdefault(record.container_id, time.monotonic())
        if time.monotonic() - since < WORTH_TELLING_S:
            return
        word = _FIRST_WORD.search(line.reason)
        self._board.publish(
            Report(
                container_id=record.container_id,
                phase=Phase.QUEUED,
                reason=state.reason or (word[0] if word else ""),
                message=_sentence(line),
            )
        )

    async def _cancel_requeued(self, record: Record, line: JobLine) -> None:
        """Somebody requeued a job that forbids it. Its container has run: it neither goes on nor begins again."""
        if record.container_id not in self._requeued:
            self._requeued.add(record.container_id)
            _log.warning("a job was requeued", container_id=record.container_id, job_id=line.job_id)
        await self._clusters[record.container_id].signal("CANCEL", line.job_id)
        self.hurry(record.account)

    async def job_over(self, container_id: ContainerId, line: JobLine | None, *, only_if_told: bool = False) -> None:
        record, cluster = self._records.get(container_id), self._clusters.get(container_id)
        if record is None or cluster is None or record.job_id is None or record.stage is not Stage.SUBMITTED:
            return
        if record.allocation is not None and line is not None and only_if_told:
            return  # why it ended is not known before its allocation has
        remains = await gather(cluster, record, line)
        if not remains.told and remains.claimed_by is not None:
            await self._follow(record, remains.claimed_by, cluster)
            return
        if not remains.told and only_if_told:
            return
        if line is not None and not line.exit_pair and not (remains.told and line.state != "CANCELLED"):
            # squeue tells neither an exit code nor by whom a job was cancelled
            told = (await cluster.history([record.job_id])).jobs.get(record.job_id)
            if told is not None and told.state.split()[0] == line.state:
                line = replace(line, state=told.state, exit_pair=told.exit_pair)
                remains = await gather(cluster, record, line)
        await self._carrier.bring_message(record, cluster)
        await self._end(record, line, remains)

    async def _end(self, record: Record, line: JobLine | None, remains: Remains) -> None:
        report, known = remains.report, self._board.latest(record.container_id)
        if report.started_at_ns is None and known is not None:
            report = replace(report, started_at_ns=known.started_at_ns)
        if record.container_id in self._requeued:
            report = replace(report, reason=REQUEUED)
        if (now := self._records.get(record.container_id)) is None or now.stage is not Stage.SUBMITTED:
            return
        await self._records.change(
            record.container_id,
            stage=Stage.ENDED,
            report=report,
            last_words=remains.last_words,
            stdout_bytes=remains.stdout_bytes,
            stderr_bytes=remains.stderr_bytes,
        )
        if line is not None:
            self._lines[record.container_id] = line
        self._unwatch(record)
        self._board.publish(report)
        _log.info(
            "job ended",
            container_id=record.container_id,
            job_id=record.job_id,
            state=line.state if line is not None else "unknown",
            exit_code=report.exit_code,
            reason=report.reason,
        )

    async def _follow(self, record: Record, job_id: JobId, cluster: ClusterVerbs) -> None:
        """Another job runs the container: one that was submitted by a call whose end nobody saw."""
        _log.warning("another job runs this container", container_id=record.container_id, job_id=job_id)
        record = await self._records.change(record.container_id, job_id=job_id)
        self.track(record, job_id, cluster)

    def _unwatch(self, record: Record) -> None:
        self._clusters.pop(record.container_id, None)
        self._waiting_since.pop(record.container_id, None)
        self._requeued.discard(record.container_id)
        self._seen_ended.discard(record.container_id)
        if (watcher := self._watchers.get(record.account)) is not None:
            watcher.drop(record.container_id)


def _sentence(line: JobLine) -> str:
    """A reason may name thousands of nodes."""
    return _short(f"job {line.job_id} is {line.state}{': ' if line.reason else ''}{line.reason}")


def _short(sentence: str) -> str:
    return sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[:LONGEST_SENTENCE]} ..."
