"""CRI's calls for the runtime as a whole. Behind a proxy with a default runtime, that one answers most of them."""

from collections.abc import AsyncIterator

from multicri_proxy import __version__
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime import messages
from multicri_proxy.runtime.calls import Calls


class NodeCalls(Calls):
    """Version, Status, RuntimeConfig, UpdateRuntimeConfig and GetContainerEvents."""

    async def version(self, request: cri.VersionRequest) -> cri.VersionResponse:
        """The kubelet begins container ids with the runtime's name."""
        return cri.VersionResponse(
            version="0.1.0", runtime_name="multicri", runtime_version=__version__, runtime_api_version="v1"
        )

    async def status(self, request: cri.StatusRequest) -> cri.StatusResponse:
        """Ready even if a cluster elsewhere is silent, but not without the pod network that an admin wants.

        Behind a proxy with a default runtime the node's network is that runtime's, and this is not asked.
        """
        problem = await self._parts.network.problem()
        handlers = ["", *self._parts.handlers] if self._parts.is_alone else self._parts.handlers
        return cri.StatusResponse(
            status=cri.RuntimeStatus(
                conditions=[
                    cri.RuntimeCondition(type="RuntimeReady", status=True),
                    cri.RuntimeCondition(
                        type="NetworkReady",
                        status=not problem,
                        reason="NetworkPluginNotReady" if problem else "",
                        message=problem,
                    ),
                ]
            ),
            runtime_handlers=[
                cri.RuntimeHandler(name=name, features=cri.RuntimeHandlerFeatures()) for name in handlers
            ],
            features=cri.RuntimeFeatures(),
            info=messages.info({"adapter": self._parts.adapter.name}) if request.verbose else {},
        )

    async def runtime_config(self, request: cri.RuntimeConfigRequest) -> cri.RuntimeConfigResponse:
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=cri.CGROUPFS))

    async def update_runtime_config(self, request: cri.UpdateRuntimeConfigRequest) -> cri.UpdateRuntimeConfigResponse:
        """Tells where the pods' addresses are to come from. Never fails or waits: other runtimes are told, too."""
        self._parts.network.take_pod_cidr(request.runtime_config.network_config.pod_cidr)
        return cri.UpdateRuntimeConfigResponse()

    def get_container_events(self, request: cri.GetEventsRequest) -> AsyncIterator[cri.ContainerEventResponse]:
        return self._parts.events.subscribe()
