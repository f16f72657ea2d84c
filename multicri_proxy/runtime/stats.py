"""CRI's calls for stats and metrics, from what the adapter has measured: from memory, and never failing a list."""

from collections.abc import AsyncIterator

from multicri_proxy.api.adapter import Usage
from multicri_proxy.api.ids import PodSandboxId
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime import messages
from multicri_proxy.runtime.calls import Calls
from multicri_proxy.runtime.filters import select_containers, select_sandboxes
from multicri_proxy.runtime.records import Container, ContainerState, Sandbox, SandboxState
from multicri_proxy.runtime.usage_metrics import descriptors, pod_sandbox_metrics


class StatsCalls(Calls):
    """ContainerStats to ListMetricDescriptors. Lists are of what runs, as CRI wants them, and never fail."""

    async def container_stats(self, request: cri.ContainerStatsRequest) -> cri.ContainerStatsResponse:
        record = self._parts.pods.container(request.container_id).record
        return cri.ContainerStatsResponse(stats=self._stats_of_container(record))

    async def list_container_stats(self, request: cri.ListContainerStatsRequest) -> cri.ListContainerStatsResponse:
        return cri.ListContainerStatsResponse(stats=self._container_stats(request.filter))

    async def stream_container_stats(
        self, request: cri.StreamContainerStatsRequest
    ) -> AsyncIterator[cri.StreamContainerStatsResponse]:
        for batch in messages.batches(self._container_stats(request.filter)):
            yield cri.StreamContainerStatsResponse(container_stats=batch)

    async def pod_sandbox_stats(self, request: cri.PodSandboxStatsRequest) -> cri.PodSandboxStatsResponse:
        record = self._parts.pods.sandbox(request.pod_sandbox_id).record
        containers = _running([entry.record for entry in self._parts.pods.containers_of(record.id)])
        usages = self._usages(containers).get(record.id, ())
        return cri.PodSandboxStatsResponse(stats=messages.pod_sandbox_stats(record, usages, self._parts.now_ns()))

    async def list_pod_sandbox_stats(self, request: cri.ListPodSandboxStatsRequest) -> cri.ListPodSandboxStatsResponse:
        return cri.ListPodSandboxStatsResponse(stats=self._pod_sandbox_stats(request.filter))

    async def stream_pod_sandbox_stats(
        self, request: cri.StreamPodSandboxStatsRequest
    ) -> AsyncIterator[cri.StreamPodSandboxStatsResponse]:
        for batch in messages.batches(self._pod_sandbox_stats(request.filter)):
            yield cri.StreamPodSandboxStatsResponse(pod_sandbox_stats=batch)

    async def list_pod_sandbox_metrics(
        self, request: cri.ListPodSandboxMetricsRequest
    ) -> cri.ListPodSandboxMetricsResponse:
        return cri.ListPodSandboxMetricsResponse(pod_metrics=self._metrics())

    async def stream_pod_sandbox_metrics(
        self, request: cri.StreamPodSandboxMetricsRequest
    ) -> AsyncIterator[cri.StreamPodSandboxMetricsResponse]:
        for batch in messages.batches(self._metrics()):
            yield cri.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=batch)

    async def list_metric_descriptors(
        self, request: cri.ListMetricDescriptorsRequest
    ) -> cri.ListMetricDescriptorsResponse:
        return cri.ListMetricDescriptorsResponse(descriptors=descriptors())

    def _container_stats(self, wanted: cri.ContainerStatsFilter) -> list[cri.ContainerStats]:
        running = select_containers(_running(self._parts.pods.containers()), wanted)
        return [self._stats_of_container(record) for record in running]

    def _stats_of_container(self, record: Container) -> cri.ContainerStats:
        return messages.container_stats(record, self._parts.adapter.usage(record.id), self._parts.now_ns())

    def _pod_sandbox_stats(self, wanted: cri.PodSandboxStatsFilter) -> list[cri.PodSandboxStats]:
        usages, now_ns = self._usages(_running(self._parts.pods.containers())), self._parts.now_ns()
        sandboxes = select_sandboxes(self._ready(), wanted)
        return [messages.pod_sandbox_stats(sandbox, usages.get(sandbox.id, ()), now_ns) for sandbox in sandboxes]

    def _metrics(self) -> list[cri.PodSandboxMetrics]:
        usages = self._usages(_running(self._parts.pods.containers()))
        return [pod_sandbox_metrics(sandbox, usages.get(sandbox.id, ())) for sandbox in self._ready()]

    def _ready(self) -> list[Sandbox]:
        return [record for record in self._parts.pods.sandboxes() if record.state is SandboxState.READY]

    def _usages(self, containers: list[Container]) -> dict[PodSandboxId, list[tuple[Container, Usage | None]]]:
        """By sandbox, in one pass: there may be thousands."""
        usages: dict[PodSandboxId, list[tuple[Container, Usage | None]]] = {}
        for record in containers:
            usages.setdefault(record.sandbox_id, []).append((record, self._parts.adapter.usage(record.id)))
        return usages


def _running(records: list[Container]) -> list[Container]:
    return [record for record in records if record.state is ContainerState.RUNNING]
