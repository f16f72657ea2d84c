"""An ordinary pod's calls, made without a pause, and how they fare."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
from google.protobuf.message import Message
from kubelet import Kubelet

from multicri_proxy.cri.v1 import runtime_pb2 as cri

SANITY_S = 5.0
"""Longer than any of these calls takes on a machine that is not at its limit; whatever hangs takes longer."""

SLACK = 5.0
"""On a slower machine: so many times the slowest call before the fault."""

STAYS = {"multicri-isolation": "stays"}
"""The labels of the ordinary pod's container."""

_PAUSE_S = 0.01
_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Fared:
    """How the calls of one method fared."""

    answered: int = 0
    slowest_s: float = 0.0


Phase = Mapping[str, Fared]
"""How the calls of a stretch of time fared, by method."""


@dataclass(slots=True)
class OrdinaryCalls:
    """Several methods, each called again as soon as it has answered. failures: what did not succeed."""

    phase: Phase
    failures: list[str] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def new_phase(self) -> Phase:
        """From now on. A call counts where it ends."""
        self.phase = {name: Fared() for name in self.phase}
        return self.phase

    async def answered(self, times: int) -> None:
        """Wait until each method has been answered so many times in this phase. Fails if one fails."""
        phase = self.phase
        async with asyncio.timeout(times * _TIMEOUT_S), self.changed:
            await self.changed.wait_for(
                lambda: bool(self.failures) or all(fared.answered >= times for fared in phase.values())
            )
        assert not self.failures, self.failures

    async def keep_calling(self, kubelet: Kubelet, name: str, request: Message, response: type[Message]) -> None:
        while True:
            started = time.monotonic()
            try:
                await kubelet.call(request, response)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{name}: {error.code()}: {error.details()}")
            async with self.changed:
                fared = self.phase[name]
                fared.answered += 1
                fared.slowest_s = max(fared.slowest_s, time.monotonic() - started)
                self.changed.notify_all()
            await asyncio.sleep(_PAUSE_S)


@asynccontextmanager
async def ordinary_calls(kubelet: Kubelet, container_id: str) -> AsyncIterator[OrdinaryCalls]:
    """Keep calling, about a container in containerd. Each method has a loop of its own."""
    impatient = Kubelet(kubelet.channel, kubelet.logs, timeout_s=_TIMEOUT_S)
    requests: Mapping[str, tuple[Message, type[Message]]] = {
        "Version": (cri.VersionRequest(), cri.VersionResponse),
        "ListPodSandbox": (cri.ListPodSandboxRequest(), cri.ListPodSandboxResponse),
        "ListContainers": (cri.ListContainersRequest(), cri.ListContainersResponse),
        "ListContainerStats": (
            # containerd 1.6 fails a list of stats when a container of it is removed meanwhile
            cri.ListContainerStatsRequest(filter=cri.ContainerStatsFilter(label_selector=STAYS)),
            cri.ListContainerStatsResponse,
        ),
        "ContainerStatus": (cri.ContainerStatusRequest(container_id=container_id), cri.ContainerStatusResponse),
        "ExecSync": (cri.ExecSyncRequest(container_id=container_id, cmd=["true"], timeout=20), cri.ExecSyncResponse),
    }
    calls = OrdinaryCalls(phase={name: Fared() for name in requests})
    async with asyncio.TaskGroup() as group:
        loops = [
            group.create_task(calls.keep_calling(impatient, name, request, response), name=name)
            for name, (request, response) in requests.items()
        ]
        yield calls
        for loop in loops:
            loop.cancel()


async def live(kubelet: Kubelet, image: str) -> None:
    """A whole life of an ordinary pod, from its sandbox to its removal."""
    pod = await kubelet.run_pod_sandbox("lives")
    container_id = await kubelet.create_container(pod, image, command=["true"])
    await kubelet.start(container_id)
    await kubelet.wait_until_exited(container_id)
    await kubelet.remove(container_id)
    await kubelet.remove_sandbox(pod.sandbox_id)


def assert_undisturbed(before: Phase, during: Phase) -> None:
    """No call took longer than is sane, or on a slow machine much longer than the slowest before."""
    for name, fared in during.items():
        bound_s = max(SANITY_S, SLACK * before[name].slowest_s)
        assert fared.slowest_s <= bound_s, f"{name} took {fared.slowest_s:.2f} s, before {before[name].slowest_s:.2f} s"
