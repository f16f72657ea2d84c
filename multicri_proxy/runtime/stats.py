"""CRI's calls for stats and metrics: who there is and when, not how much is used, which no adapter tells yet."""

from collections.abc import AsyncIterator

from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime import messages
from multicri_proxy.runtime.calls import Calls
from multicri_proxy.runtime.filters import select_containers, select_sandboxes
from multicri_proxy.runtime.records import Container, ContainerState, Sandbox, SandboxState


class StatsCalls(Calls):
    """ContainerStats to ListMetricDescriptors. Lists are of what runs, as CRI wants them, and never fail."""

    async def container_stats(self, request: cri.ContainerStatsRequest) -> cri.ContainerStatsResponse:
        record = self._parts.pods.container(request.container_id).record
        return cri.ContainerStatsResponse(stats=messages.container_stats(record, self._parts.now_ns()))

    async def list_container_stats(self, request: cri.ListContainerStatsRequest) -> cri.ListContainerStatsResponse:
        return cri.ListContainerStatsResponse(stats=self._container_stats(request.filter))

    async def stream_container_stats(
        self, request: cri.StreamContainerStatsRequest
    ) -> AsyncIterator[cri.StreamContainerStatsResponse]:
        for batch in messages.batches(self._container_stats(request.filter)):
            yield cri.StreamContainerStatsResponse(container_stats=batch)

    async def pod_sandbox_stats(self, request: cri.PodSandboxStatsRequest) -> cri.PodSandboxStatsResponse:
        record = self._parts.pods.sandbox(request.pod_sandbox_id).record
        return cri.PodSandboxStatsResponse(stats=self._stats_of(record))

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
        return cri.ListPodSandboxMetricsResponse()

    async def stream_pod_sandbox_metrics(
        self, request: cri.StreamPodSandboxMetricsRequest
    ) -> AsyncIterator[cri.StreamPodSandboxMetricsResponse]:
        for batch in messages.batches(list[cri.PodSandboxMetrics]()):
            yield cri.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=batch)

    async def list_metric_descriptors(
        self, request: cri.ListMetricDescriptorsRequest
    ) -> cri.ListMetricDescriptorsResponse:
        return cri.ListMetricDescriptorsResponse()

    def _container_stats(self, wanted: cri.ContainerStatsFilter) -> list[cri.ContainerStats]:
        now_ns = self._parts.now_ns()
        running = select_containers(_running(self._parts.pods.containers()), wanted)
        return [messages.container_stats(record, now_ns) for record in running]

    def _pod_sandbox_stats(self, wanted: cri.PodSandboxStatsFilter) -> list[cri.PodSandboxStats]:
        ready = [record for record in self._parts.pods.sandboxes() if record.state is SandboxState.READY]
        return [self._stats_of(record) for record in select_sandboxes(ready, wanted)]

    def _stats_of(self, sandbox: Sandbox) -> cri.PodSandboxStats:
        containers = [entry.record for entry in self._parts.pods.containers_of(sandbox.id)]
        return messages.pod_sandbox_stats(sandbox, _running(containers), self._parts.now_ns())


def _running(records: list[Container]) -> list[Container]:
    return [record for record in records if record.state is ContainerState.RUNNING]
