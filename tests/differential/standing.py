"""Pods that are there while calls are compared which only look."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kubelet import Kubelet
from kubelet.client import PodOnNode

from multicri_proxy.cri.v1 import runtime_pb2 as cri

LABEL = "multicri-differential"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A pod with a container that runs, one that has exited and one that was not started; and a stopped pod."""

    pod: PodOnNode
    stopped: PodOnNode
    running: str
    exited: str
    created: str
    image: str

    @property
    def sandboxes(self) -> tuple[str, ...]:
        return (self.pod.sandbox_id, self.stopped.sandbox_id)

    @property
    def containers(self) -> tuple[str, ...]:
        return (self.running, self.exited, self.created)


@asynccontextmanager
async def standing_pods(kubelet: Kubelet, image: str) -> AsyncIterator[Standing]:
    """Gone afterwards."""
    await kubelet.pull(image)
    try:
        pod = await kubelet.run_pod_sandbox("standing", labels={LABEL: "standing", "tier": "front"})
        stopped = await kubelet.run_pod_sandbox("stopped", labels={LABEL: "standing"})
        await kubelet.call(cri.StopPodSandboxRequest(pod_sandbox_id=stopped.sandbox_id), cri.StopPodSandboxResponse)
        running, exited, created = [
            await kubelet.create_container(
                pod, image, name=name, command=command, env={"A": "1"}, labels={LABEL: "standing", "name": name}
            )
            for name, command in (("running", ["sleep", "600"]), ("exited", ["false"]), ("created", ["true"]))
        ]
        await kubelet.start(running)
        await kubelet.start(exited)
        await kubelet.wait_until_exited(exited)
        yield Standing(pod=pod, stopped=stopped, running=running, exited=exited, created=created, image=image)
    finally:
        await remove_labelled(kubelet, "standing")


async def remove_labelled(kubelet: Kubelet, value: str) -> None:
    """Remove every pod whose label says this."""
    for sandbox in await kubelet.sandboxes(label_selector={LABEL: value}):
        await kubelet.remove_sandbox(sandbox.id)
