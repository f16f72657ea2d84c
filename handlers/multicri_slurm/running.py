"""A container that runs, as exec, attach and port-forward want it."""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from multicri_proxy.api.adapter import Phase
from multicri_proxy.api.board import Board
from multicri_proxy.api.errors import FailedPrecondition, Unavailable
from multicri_proxy.api.ids import ContainerId, JobId, PodSandboxId
from multicri_slurm.answers import first_node
from multicri_slurm.records import Record, Records, Stage
from multicri_slurm.verbs import ClusterVerbs
from multicri_slurm.watching import Watching


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """node: the one on which the job's script runs, by Slurm's name."""

    record: Record
    job_id: JobId
    node: str
    cluster: ClusterVerbs

    def __str__(self) -> str:
        return f"job {self.job_id} of {self.record.account}"


class RunningContainers:
    """Finds them."""

    def __init__(
        self, records: Records, board: Board, watching: Watching, cluster_of: Callable[[Record], ClusterVerbs]
    ) -> None:
        self._records = records
        self._board = board
        self._watching = watching
        self._cluster_of = cluster_of

    def of(self, container_id: ContainerId) -> Running:
        """Raises FailedPrecondition if it does not run, Unavailable if it is not known yet where."""
        record, report = self._records.get(container_id), self._board.latest(container_id)
        if record is None or record.stage is not Stage.SUBMITTED or record.job_id is None:
            raise FailedPrecondition(f"container {container_id} does not run")
        if report is not None and report.phase is Phase.QUEUED:
            raise FailedPrecondition(f"job {record.job_id} of {record.account} waits in the queue")
        line = self._watching.line_of(container_id)
        node = first_node(line.nodes) if line is not None else ""
        if not node:
            raise Unavailable(f"job {record.job_id} of {record.account}: Slurm has not told yet where it runs")
        return Running(record=record, job_id=record.job_id, node=node, cluster=self._cluster_of(record))

    def newest_in(self, sandbox_id: PodSandboxId) -> Running:
        """The container of a pod that began last. Raises FailedPrecondition if none runs, or Unavailable."""
        reports = [
            report
            for record in self._records.all()
            if posixpath.basename(posixpath.dirname(record.directory)) == sandbox_id
            and (report := self._board.latest(record.container_id)) is not None
            and report.phase is Phase.RUNNING
        ]
        if not reports:
            raise FailedPrecondition(f"no container of pod sandbox {sandbox_id} runs in the cluster")
        return self.of(max(reports, key=lambda report: report.started_at_ns or 0).container_id)
