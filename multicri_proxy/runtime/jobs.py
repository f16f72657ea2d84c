"""The adapter's containers as an admin looks at them: which job is whose, and how it fares."""

from collections.abc import Mapping
from dataclasses import dataclass

from multicri_proxy.runtime.pods import ContainerEntry
from multicri_proxy.runtime.records import ContainerState, Sandbox

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A container, and the job that runs it. What is not known, or not there yet, is empty or None.

    pod: ``namespace/name``. state: the cluster's word for it, else the container's own. reason: why it waits, or how it
    ended. cluster: the account there. elapsed_s: since it began to run, until it ended.
    """

    pod: str
    container: str
    attempt: int
    container_id: str
    job_id: str
    state: str
    reason: str
    node: str
    elapsed_s: int | None
    exit_code: int | None
    cluster: str


def job_of(sandbox: Sandbox, entry: ContainerEntry, details: Mapping[str, str], now_ns: int) -> Job:
    """details: what the adapter tells of the container."""
    record, report = entry.record, entry.report
    exited = record.state is ContainerState.EXITED
    phase = record.state.value if exited or report is None else report.phase.value
    started_at_ns = record.started_at_ns if exited or report is None else report.started_at_ns
    ended_at_ns = record.finished_at_ns if exited else now_ns
    return Job(
        pod=f"{sandbox.namespace}/{sandbox.name}",
        container=record.name,
        attempt=record.attempt,
        container_id=record.id,
        job_id=details.get("job_id", ""),
        state=details.get("job_state") or phase.upper(),
        reason=record.reason if exited else details.get("queue_reason") or (report.reason if report else ""),
        node=details.get("node_list", ""),
        elapsed_s=max(0, ended_at_ns - started_at_ns) // _NS if started_at_ns else None,
        exit_code=record.exit_code if exited else None,
        cluster=details.get("account", ""),
    )
