"""Records in CRI's words."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from google.protobuf.message import Message

from multicri_proxy.api.adapter import Report, Usage
from multicri_proxy.api.image import Image
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.records import Container, ContainerState, Sandbox, SandboxState

SANDBOX_STATES = {
    SandboxState.READY: cri.SANDBOX_READY,
    SandboxState.NOTREADY: cri.SANDBOX_NOTREADY,
}

CONTAINER_STATES = {
    ContainerState.CREATED: cri.CONTAINER_CREATED,
    ContainerState.RUNNING: cri.CONTAINER_RUNNING,
    ContainerState.EXITED: cri.CONTAINER_EXITED,
}

_LARGEST_BATCH_BYTES = 1 << 20
_Item = TypeVar("_Item", bound=Message)


def pod_sandbox(sandbox: Sandbox) -> cri.PodSandbox:
    return cri.PodSandbox(
        id=sandbox.id,
        metadata=_pod_metadata(sandbox),
        state=SANDBOX_STATES[sandbox.state],
        created_at=sandbox.created_at_ns,
        labels=sandbox.labels,
        annotations=sandbox.annotations,
        runtime_handler=sandbox.runtime_handler,
    )


def pod_sandbox_status(sandbox: Sandbox) -> cri.PodSandboxStatus:
    """The kubelet makes a new sandbox if the network option or the IP are not those that it expects."""
    return cri.PodSandboxStatus(
        id=sandbox.id,
        metadata=_pod_metadata(sandbox),
        state=SANDBOX_STATES[sandbox.state],
        created_at=sandbox.created_at_ns,
        network=cri.PodSandboxNetworkStatus(
            ip=sandbox.ip, additional_ips=[cri.PodIP(ip=ip) for ip in sandbox.additional_ips]
        ),
        linux=cri.LinuxPodSandboxStatus(
            namespaces=cri.Namespace(options=cri.NamespaceOption.FromString(sandbox.namespace_options))
        ),
        labels=sandbox.labels,
        annotations=sandbox.annotations,
        runtime_handler=sandbox.runtime_handler,
    )


def container(record: Container) -> cri.Container:
    return cri.Container(
        id=record.id,
        pod_sandbox_id=record.sandbox_id,
        metadata=cri.ContainerMetadata(name=record.name, attempt=record.attempt),
        image=_image_spec(record),
        image_ref=record.image_id,
        image_id=record.image_id,
        state=CONTAINER_STATES[record.state],
        created_at=record.created_at_ns,
        labels=record.labels,
        annotations=record.annotations,
    )


def container_status(record: Container, log_directory: str, report: Report | None) -> cri.ContainerStatus:
    """report: the adapter's last, which tells of a container that runs what holds it up."""
    running = report if record.state is ContainerState.RUNNING else None
    return cri.ContainerStatus(
        id=record.id,
        metadata=cri.ContainerMetadata(name=record.name, attempt=record.attempt),
        state=CONTAINER_STATES[record.state],
        created_at=record.created_at_ns,
        started_at=record.started_at_ns,
        finished_at=record.finished_at_ns,
        exit_code=record.exit_code,
        image=_image_spec(record),
        image_ref=record.image_id,
        image_id=record.image_id,
        reason=running.reason if running else record.reason,
        message=running.message if running else record.message,
        labels=record.labels,
        annotations=record.annotations,
        mounts=[cri.Mount.FromString(mount) for mount in record.mounts],
        log_path=str(PurePosixPath(log_directory, record.log_path)) if record.log_path else "",
    )


def container_stats(record: Container, usage: Usage | None, now_ns: int) -> cri.ContainerStats:
    """What was not measured is absent, which is not zero."""
    return cri.ContainerStats(
        attributes=cri.ContainerAttributes(
            id=record.id,
            metadata=cri.ContainerMetadata(name=record.name, attempt=record.attempt),
            labels=record.labels,
            annotations=record.annotations,
        ),
        cpu=_cpu(usage, now_ns),
        memory=_memory(usage, now_ns),
    )


def pod_sandbox_stats(
    sandbox: Sandbox, containers: Sequence[tuple[Container, Usage | None]], now_ns: int
) -> cri.PodSandboxStats:
    """The pod's usage is the sum of its containers', as far as each was measured: there is nothing else of it."""
    usage = total([usage for _, usage in containers if usage is not None])
    return cri.PodSandboxStats(
        attributes=cri.PodSandboxAttributes(
            id=sandbox.id,
            metadata=_pod_metadata(sandbox),
            labels=sandbox.labels,
            annotations=sandbox.annotations,
        ),
        linux=cri.LinuxPodSandboxStats(
            cpu=_cpu(usage, now_ns),
            memory=_memory(usage, now_ns),
            network=cri.NetworkUsage(timestamp=now_ns),
            process=cri.ProcessUsage(timestamp=now_ns),
            containers=[container_stats(record, usage, now_ns) for record, usage in containers],
        ),
    )


def total(usages: Sequence[Usage]) -> Usage | None:
    """The sum of several measurements, as old as the oldest; None of none."""
    if not usages:
        return None

    def add(values: Iterable[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return Usage(
        measured_at_ns=min(usage.measured_at_ns for usage in usages),
        cpu_ns=add(usage.cpu_ns for usage in usages),
        cpu_nano_cores=add(usage.cpu_nano_cores for usage in usages),
        memory_bytes=add(usage.memory_bytes for usage in usages),
        resident_bytes=add(usage.resident_bytes for usage in usages),
    )


def _cpu(usage: Usage | None, now_ns: int) -> cri.CpuUsage:
    if usage is None:
        return cri.CpuUsage(timestamp=now_ns)
    return cri.CpuUsage(
        timestamp=usage.measured_at_ns,
        usage_core_nano_seconds=_number(usage.cpu_ns),
        usage_nano_cores=_number(usage.cpu_nano_cores),
    )


def _memory(usage: Usage | None, now_ns: int) -> cri.MemoryUsage:
    if usage is None:
        return cri.MemoryUsage(timestamp=now_ns)
    return cri.MemoryUsage(
        timestamp=usage.measured_at_ns,
        working_set_bytes=_number(usage.memory_bytes),
        rss_bytes=_number(usage.resident_bytes),
    )


def _number(value: int | None) -> cri.UInt64Value | None:
    return cri.UInt64Value(value=value) if value is not None else None


def image(record: Image) -> cri.Image:
    """CRI wants a size above 0; the kubelet's garbage collection adds it up.

    Of ``uid:gid`` and ``user:group`` the kubelet wants to know the user, who must not be root if the pod says so.
    """
    user = record.config.user.partition(":")[0] if record.config else ""
    is_number = user.isascii() and user.isdecimal() and int(user) < 1 << 31
    return cri.Image(
        id=record.id,
        repo_tags=[name for name in record.names if "@" not in name],
        repo_digests=dict.fromkeys((*(name for name in record.names if "@" in name), *record.digests)),
        size=max(1, record.size_bytes),
        uid=cri.Int64Value(value=int(user)) if is_number else None,
        username="" if is_number else user,
        pinned=record.pinned,
    )


def info(facts: Mapping[str, object]) -> dict[str, str]:
    """A verbose status's map: crictl prints the JSON below ``info`` as part of its own."""
    return {"info": json.dumps(facts, sort_keys=True)}


def batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """The items in lists of a bounded size on the wire, at least one item in each."""
    begin = size_bytes = 0
    for index, item in enumerate(items):
        item_bytes = item.ByteSize()
        if index > begin and size_bytes + item_bytes > _LARGEST_BATCH_BYTES:
            yield items[begin:index]
            begin, size_bytes = index, 0
        size_bytes += item_bytes
    if items:
        yield items[begin:]


def _pod_metadata(sandbox: Sandbox) -> cri.PodSandboxMetadata:
    return cri.PodSandboxMetadata(
        name=sandbox.name, uid=sandbox.uid, namespace=sandbox.namespace, attempt=sandbox.attempt
    )


def _image_spec(record: Container) -> cri.ImageSpec:
    return cri.ImageSpec(image=record.image_name, user_specified_image=record.image_name)
