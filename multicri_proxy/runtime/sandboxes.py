"""CRI's calls for sandboxes. A sandbox is a record, and perhaps a network: nothing runs in it without a container."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine

from multicri_proxy.api.adapter import JoinsPodNetwork
from multicri_proxy.api.errors import AlreadyExists, MulticriError
from multicri_proxy.api.ids import PodSandboxId
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime import messages
from multicri_proxy.runtime.calls import Calls
from multicri_proxy.runtime.configs import sandbox_record
from multicri_proxy.runtime.filters import select_sandboxes
from multicri_proxy.runtime.late import imported
from multicri_proxy.runtime.pods import ContainerEntry, SandboxEntry
from multicri_proxy.runtime.records import Sandbox, SandboxState, sandbox_with_network


class SandboxCalls(Calls):
    """RunPodSandbox to UpdatePodSandboxResources."""

    async def run_pod_sandbox(self, request: cri.RunPodSandboxRequest) -> cri.RunPodSandboxResponse:
        """Asked again for a sandbox that is READY, answer its id: a kubelet may have lost the first answer."""
        record = sandbox_record(
            request.config,
            sandbox_id=PodSandboxId(secrets.token_hex(32)),
            runtime_handler=request.runtime_handler,
            ip=self._parts.pod_ip,
            now_ns=self._parts.now_ns(),
        )
        name = (record.namespace, record.name, record.uid, record.attempt)
        async with self._parts.names.of("sandbox", *name):
            for known in self._parts.pods.sandboxes():
                if (known.namespace, known.name, known.uid, known.attempt) != name:
                    continue
                if known.state is SandboxState.READY:
                    return cri.RunPodSandboxResponse(pod_sandbox_id=known.id)
                raise AlreadyExists(
                    f"attempt {record.attempt} of pod {record.namespace}/{record.name} is sandbox {known.id}, which "
                    "is stopped: remove it, or ask for the next attempt"
                )
            await self._add(record, request.config)
        return cri.RunPodSandboxResponse(pod_sandbox_id=record.id)

    async def stop_pod_sandbox(self, request: cri.StopPodSandboxRequest) -> cri.StopPodSandboxResponse:
        """End all its containers at once, without grace: the kubelet has stopped those that deserved some."""
        entry = self._parts.pods.find_sandbox(request.pod_sandbox_id)
        if entry:
            entry.stopping = True
            try:
                try:
                    await self._each(entry, lambda container: self._parts.lifecycle.stop(container, 0))
                finally:  # what cannot be stopped by itself may end with the whole
                    await self._parts.lifecycle.end_pod(entry.record.id)
                await self._parts.network.detach(entry.record.id)
                await self._parts.pods.stop_sandbox(entry)
            finally:
                entry.stopping = False
        return cri.StopPodSandboxResponse()

    async def remove_pod_sandbox(self, request: cri.RemovePodSandboxRequest) -> cri.RemovePodSandboxResponse:
        """Remove it with all its containers, by force if they run."""
        entry = self._parts.pods.find_sandbox(request.pod_sandbox_id)
        if entry:
            await self._parts.pods.stop_sandbox(entry)
            await self._each(entry, self._parts.lifecycle.remove)
            await self._parts.network.detach(entry.record.id)
            await self._parts.pods.delete_sandbox(entry)
        return cri.RemovePodSandboxResponse()

    async def pod_sandbox_status(self, request: cri.PodSandboxStatusRequest) -> cri.PodSandboxStatusResponse:
        sandbox = self._parts.pods.sandbox(request.pod_sandbox_id).record
        facts = {"sandboxID": sandbox.id, "adapter": self._parts.adapter.name, "logDirectory": sandbox.log_directory}
        return cri.PodSandboxStatusResponse(
            status=messages.pod_sandbox_status(sandbox),
            info=messages.info(facts) if request.verbose else {},
            containers_statuses=self._parts.pods.statuses_of(sandbox),
            timestamp=self._parts.now_ns(),
        )

    async def list_pod_sandbox(self, request: cri.ListPodSandboxRequest) -> cri.ListPodSandboxResponse:
        return cri.ListPodSandboxResponse(items=self._pod_sandboxes(request.filter))

    async def stream_pod_sandboxes(
        self, request: cri.StreamPodSandboxesRequest
    ) -> AsyncIterator[cri.StreamPodSandboxesResponse]:
        for batch in messages.batches(self._pod_sandboxes(request.filter)):
            yield cri.StreamPodSandboxesResponse(pod_sandboxes=batch)

    async def update_pod_sandbox_resources(
        self, request: cri.UpdatePodSandboxResourcesRequest
    ) -> cri.UpdatePodSandboxResourcesResponse:
        """Tells of the pod's sums only, which nothing here depends on."""
        self._parts.pods.sandbox(request.pod_sandbox_id)
        return cri.UpdatePodSandboxResourcesResponse()

    async def _add(self, record: Sandbox, config: cri.PodSandboxConfig) -> None:
        """Into the table once it has its network: one that is killed in between leaves none, see `PodNetwork.begin`."""
        network = self._parts.network
        if network.wanted_by(config):
            joins = isinstance(await imported(self._parts.adapter), JoinsPodNetwork)
            record = sandbox_with_network(record, await network.attach(record.id, config, joins=joins))
        try:
            await self._parts.pods.add_sandbox(record)
        except MulticriError:
            await network.detach(record.id)
            raise

    def _pod_sandboxes(self, wanted: cri.PodSandboxFilter) -> list[cri.PodSandbox]:
        return [messages.pod_sandbox(record) for record in select_sandboxes(self._parts.pods.sandboxes(), wanted)]

    async def _each(
        self, sandbox: SandboxEntry, end: Callable[[ContainerEntry], Coroutine[object, object, None]]
    ) -> None:
        """Do this to all containers at once. If some fail the others are done still, then one error is raised."""
        containers = self._parts.pods.containers_of(sandbox.record.id)
        results = await asyncio.gather(*(end(container) for container in containers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
