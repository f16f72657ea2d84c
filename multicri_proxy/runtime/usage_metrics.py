"""Usage as CRI's metrics, in Prometheus's sense. Pure.

The names are our own: a node's lists are those of all its runtimes, one after the other, and the kubelet keeps one
descriptor for a name. With containerd's names and other labels we would take its pods' metrics away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multicri_proxy.api.adapter import Usage
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.records import Container, Sandbox

_LABELS = ("namespace", "pod", "container", "id")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metric:
    name: str
    help: str
    kind: cri.MetricType
    value: Callable[[Usage], int | None]


_METRICS = (
    _Metric(
        name="multicri_container_cpu_usage_nanoseconds_total",
        help="Processor time of one core that the container has used since its start.",
        kind=cri.COUNTER,
        value=lambda usage: usage.cpu_ns,
    ),
    _Metric(
        name="multicri_container_memory_working_set_bytes",
        help="Memory that the container holds.",
        kind=cri.GAUGE,
        value=lambda usage: usage.memory_bytes,
    ),
)


def descriptors() -> list[cri.MetricDescriptor]:
    return [cri.MetricDescriptor(name=one.name, help=one.help, label_keys=_LABELS) for one in _METRICS]


def pod_sandbox_metrics(
    sandbox: Sandbox, containers: Sequence[tuple[Container, Usage | None]]
) -> cri.PodSandboxMetrics:
    """One entry of ListPodSandboxMetrics; a container that was not measured has no metrics."""
    return cri.PodSandboxMetrics(
        pod_sandbox_id=sandbox.id,
        container_metrics=[
            cri.ContainerMetrics(container_id=record.id, metrics=_metrics(sandbox, record, usage))
            for record, usage in containers
            if usage is not None
        ],
    )


def _metrics(sandbox: Sandbox, record: Container, usage: Usage) -> list[cri.Metric]:
    labels = (sandbox.namespace, sandbox.name, record.name, record.id)
    return [
        cri.Metric(
            name=one.name,
            timestamp=usage.measured_at_ns,
            metric_type=one.kind,
            label_values=labels,
            value=cri.UInt64Value(value=value),
        )
        for one in _METRICS
        if (value := one.value(usage)) is not None
    ]
