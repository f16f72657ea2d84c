"""CRI's calls for containers."""

import secrets
from collections.abc import AsyncIterator, Mapping

from multicri_proxy.api.adapter import CanResize
from multicri_proxy.api.errors import (
    AlreadyExists,
    FailedPrecondition,
    MulticriError,
    NotFound,
    Unavailable,
    Unimplemented,
)
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.image import Image
from multicri_proxy.api.log import Log
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime import messages
from multicri_proxy.runtime.calls import Calls
from multicri_proxy.runtime.configs import (
    changed_resources,
    check_container,
    config_digest,
    container_record,
    container_spec,
)
from multicri_proxy.runtime.filters import select_containers
from multicri_proxy.runtime.late import itself
from multicri_proxy.runtime.pods import ContainerEntry, SandboxEntry
from multicri_proxy.runtime.records import ContainerState

log = Log("runtime")

_LONGEST_GRACE_PERIOD_S = 2**31 - 1


class ContainerCalls(Calls):
    """CreateContainer to ReopenContainerLog."""

    async def create_container(self, request: cri.CreateContainerRequest) -> cri.CreateContainerResponse:
        """Asked again for the same while it is CREATED, answer its id: a kubelet may have lost the first answer."""
        pods, config = self._parts.pods, request.config
        sandbox = pods.sandbox(request.pod_sandbox_id)
        check_container(config)
        await self._parts.lifecycle.adopted()
        async with self._parts.names.of("container", sandbox.record.id, config.metadata.name, config.metadata.attempt):
            if known := self._known(sandbox, config):
                return cri.CreateContainerResponse(container_id=known)
            sandbox.must_be_ready()
            image = self._parts.images.find(config.image.image)
            if image is None:
                raise NotFound(f"image {config.image.image!r} has not been pulled")
            container_id = ContainerId(secrets.token_hex(32))
            self._parts.creating[image.id] += 1
            try:
                await self._parts.images.note_use(image.id)
                await self._create(container_id, request, sandbox, image)
            finally:
                self._parts.creating[image.id] -= 1
        return cri.CreateContainerResponse(container_id=container_id)

    async def start_container(self, request: cri.StartContainerRequest) -> cri.StartContainerResponse:
        await self._parts.lifecycle.start(self._parts.pods.container(request.container_id))
        return cri.StartContainerResponse()

    async def stop_container(self, request: cri.StopContainerRequest) -> cri.StopContainerResponse:
        entry = self._parts.pods.find_container(request.container_id)
        if entry:
            await self._parts.lifecycle.stop(entry, min(max(0, request.timeout), _LONGEST_GRACE_PERIOD_S))
        return cri.StopContainerResponse()

    async def remove_container(self, request: cri.RemoveContainerRequest) -> cri.RemoveContainerResponse:
        entry = self._parts.pods.find_container(request.container_id)
        if entry:
            await self._parts.lifecycle.remove(entry)
        return cri.RemoveContainerResponse()

    async def container_status(self, request: cri.ContainerStatusRequest) -> cri.ContainerStatusResponse:
        entry = self._parts.pods.container(request.container_id)
        sandbox = self._parts.pods.sandbox(entry.record.sandbox_id).record
        return cri.ContainerStatusResponse(
            status=messages.container_status(entry.record, sandbox.log_directory, entry.report),
            info=messages.info(await self._facts(entry)) if request.verbose else {},
        )

    async def list_containers(self, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
        return cri.ListContainersResponse(containers=self._containers(request.filter))

    async def stream_containers(
        self, request: cri.StreamContainersRequest
    ) -> AsyncIterator[cri.StreamContainersResponse]:
        for batch in messages.batches(self._containers(request.filter)):
            yield cri.StreamContainersResponse(containers=batch)

    async def reopen_container_log(self, request: cri.ReopenContainerLogRequest) -> cri.ReopenContainerLogResponse:
        entry = self._parts.pods.container(request.container_id)
        if entry.record.state is not ContainerState.RUNNING:
            raise FailedPrecondition(f"container {entry.record.id} is {entry.record.state.value}, and writes no log")
        if entry.log:
            try:
                await entry.log.reopen()
            except OSError as error:
                raise Unavailable(f"the log of container {entry.record.id} cannot be opened: {error}") from error
        return cri.ReopenContainerLogResponse()

    async def update_container_resources(
        self, request: cri.UpdateContainerResourcesRequest
    ) -> cri.UpdateContainerResourcesResponse:
        """Accept a pinning to the node's CPUs; everything else is done by an adapter that can, or refused.

        The kubelet's static CPU manager pins every container over and over, and logs an error each time that it is
        refused; a container elsewhere is not concerned. A resize, though, must not seem to have happened.
        """
        entry = self._parts.pods.container(request.container_id)
        adapter = itself(self._parts.adapter)
        if isinstance(adapter, CanResize):
            await adapter.resize_container(entry.record.id, changed_resources(request.linux))
            return cri.UpdateContainerResourcesResponse()
        rest = cri.LinuxContainerResources()
        rest.CopyFrom(request.linux)
        rest.ClearField("cpuset_cpus")
        rest.ClearField("cpuset_mems")
        if rest.ByteSize():
            raise Unimplemented(
                f"container {entry.record.id} keeps the resources with which it was started: "
                f"{self._parts.adapter.name} cannot change them"
            )
        return cri.UpdateContainerResourcesResponse()

    async def checkpoint_container(self, request: cri.CheckpointContainerRequest) -> cri.CheckpointContainerResponse:
        container_id = self._parts.pods.container(request.container_id).record.id
        raise Unimplemented(
            f"CheckpointContainer is not there for pods that multicri-proxy runs itself: {container_id}"
        )

    def _containers(self, wanted: cri.ContainerFilter) -> list[cri.Container]:
        return [messages.container(record) for record in select_containers(self._parts.pods.containers(), wanted)]

    def _known(self, sandbox: SandboxEntry, config: cri.ContainerConfig) -> ContainerId | None:
        wanted = (config.metadata.name, config.metadata.attempt)
        for entry in self._parts.pods.containers_of(sandbox.record.id):
            record = entry.record
            if (record.name, record.attempt) != wanted:
                continue
            if record.state is ContainerState.CREATED and record.config_digest == config_digest(config):
                return record.id
            raise AlreadyExists(
                f"attempt {record.attempt} of container {record.name!r} in sandbox {record.sandbox_id} is "
                f"{record.id}, {record.state.value} and not the same: remove it, or ask for the next attempt"
            )
        return None

    async def _create(
        self, container_id: ContainerId, request: cri.CreateContainerRequest, sandbox: SandboxEntry, image: Image
    ) -> None:
        """The adapter first: what it has without a record is cleaned up, a record without it would be a lie."""
        parts, config = self._parts, request.config
        spec = container_spec(
            config,
            request.sandbox_config,
            sandbox.record,
            image,
            container_id=container_id,
            network_namespace=parts.network.namespace_of(sandbox.record.id),
        )
        await parts.adapter.create_container(spec)
        try:
            record = container_record(config, sandbox.record, image, container_id=container_id, now_ns=parts.now_ns())
            await parts.pods.add_container(sandbox, record, parts.log_of(record, sandbox.record))
        except MulticriError:
            try:
                await parts.adapter.remove_container(container_id)
            except MulticriError as error:
                log.warning("a container is left over until the next start", container_id=container_id, error=error)
            raise

    async def _facts(self, entry: ContainerEntry) -> Mapping[str, object]:
        facts: dict[str, object] = {"sandboxID": entry.record.sandbox_id, "adapter": self._parts.adapter.name}
        if entry.report:
            facts |= {"phase": entry.report.phase.value, "reason": entry.report.reason, "message": entry.report.message}
        try:
            return {**facts, **await self._parts.adapter.details(entry.record.id)}
        except MulticriError as error:
            return {**facts, "detailsError": str(error)}
