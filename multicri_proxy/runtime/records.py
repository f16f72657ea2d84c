"""What is remembered of sandboxes and containers, and how it may change. Values of the environment are not in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from multicri_proxy.api.adapter import OutputStream, Report
from multicri_proxy.api.ids import ContainerId, ImageId, PodSandboxId

START_ERROR_EXIT_CODE = 128
"""Exit code of a container that never ran, as containerd has it."""

KILLED_EXIT_CODE = 137
"""128 + SIGKILL."""


class SandboxState(Enum):
    READY = "ready"
    NOTREADY = "notready"


class ContainerState(Enum):
    """CRI's, but for UNKNOWN, which the kubelet takes for dead: a silent cluster changes nothing of what was known."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A pod's sandbox.

    namespace_options: CRI's NamespaceOption, serialized; the kubelet compares it.
    ip, additional_ips: of a network of its own, if has_network, which ends with READY; else the node's.
    """

    id: PodSandboxId
    name: str
    namespace: str
    uid: str
    attempt: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    runtime_handler: str
    log_directory: str
    namespace_options: bytes
    ip: str
    created_at_ns: int
    state: SandboxState = SandboxState.READY
    additional_ips: tuple[str, ...] = ()
    has_network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container.

    image_name: as the user wrote it. mounts: CRI's Mount, each serialized.
    log_path: relative to the sandbox's log directory; empty for no log.
    config_digest: SHA-256 of what CreateContainer was asked for. started_at_ns, finished_at_ns: 0 for not yet.
    """

    id: ContainerId
    sandbox_id: PodSandboxId
    name: str
    attempt: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    image_name: str
    image_id: ImageId
    mounts: tuple[bytes, ...]
    log_path: str
    config_digest: str
    created_at_ns: int
    started_at_ns: int = 0
    finished_at_ns: int = 0
    state: ContainerState = ContainerState.CREATED
    exit_code: int = 0
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """How far a container's output has been copied to its log file, in bytes.

    inode, size_bytes: of the log file. read_bytes: of each stream, everything before is in a log file.
    start_bytes, start_read_bytes: what the two were when this file was opened first.
    ended: streams of which there is no more.
    """

    inode: int
    size_bytes: int
    read_bytes: Mapping[OutputStream, int]
    start_bytes: int
    start_read_bytes: Mapping[OutputStream, int]
    ended: frozenset[OutputStream] = frozenset()


def sandbox_stopped(sandbox: Sandbox) -> Sandbox:
    """NOTREADY is final. An address of its own may be another pod's from now on."""
    if sandbox.has_network:
        sandbox = replace(sandbox, ip="", additional_ips=())
    return replace(sandbox, state=SandboxState.NOTREADY)


def sandbox_with_network(sandbox: Sandbox, addresses: Sequence[str]) -> Sandbox:
    """A sandbox that is READY with a network of its own. addresses: at least one."""
    if sandbox.state is not SandboxState.READY:
        return sandbox
    return replace(sandbox, ip=addresses[0], additional_ips=tuple(addresses[1:]), has_network=True)


def container_started(container: Container, *, now_ns: int, started_at_ns: int | None = None) -> Container:
    """RUNNING, unless it has exited.

    started_at_ns: when it began by the adapter's clock, which may be off. A container that waits in a queue is
    RUNNING since it was submitted, until its begin is known: probes count their initial delay from there.
    """
    if container.state is ContainerState.EXITED:
        return container
    if container.state is ContainerState.RUNNING and started_at_ns is None:
        return container
    return replace(
        container,
        state=ContainerState.RUNNING,
        started_at_ns=_clamped(started_at_ns, container.created_at_ns, now_ns),
    )


def container_exited(container: Container, report: Report, *, now_ns: int) -> Container:
    """EXITED, which is final: of two reports the first one counts."""
    if container.state is ContainerState.EXITED:
        return container
    started = container
    if report.started_at_ns is not None or not container.started_at_ns:
        begin = report.started_at_ns if report.started_at_ns is not None else report.finished_at_ns
        started = container_started(container, now_ns=now_ns, started_at_ns=begin or now_ns)
    return replace(
        started,
        state=ContainerState.EXITED,
        finished_at_ns=_clamped(report.finished_at_ns, started.started_at_ns, now_ns),
        exit_code=report.exit_code,
        reason=report.reason or ("Completed" if report.exit_code == 0 else "Error"),
        message=report.message,
    )


def container_ended_by_us(container: Container, *, now_ns: int, exit_code: int, reason: str, message: str) -> Container:
    """EXITED without a report, which no adapter gives of a container that was never started."""
    if container.state is ContainerState.EXITED:
        return container
    started_at_ns = container.started_at_ns or _clamped(None, container.created_at_ns, now_ns)
    return replace(
        container,
        state=ContainerState.EXITED,
        started_at_ns=started_at_ns,
        finished_at_ns=_clamped(None, started_at_ns, now_ns),
        exit_code=exit_code,
        reason=reason,
        message=message,
    )


def _clamped(told_ns: int | None, earliest_ns: int, now_ns: int) -> int:
    """A time not in the future and not before what came before it. If the clock was set back, the latter wins."""
    return max(earliest_ns, min(now_ns if told_ns is None else told_ns, now_ns), 1)
