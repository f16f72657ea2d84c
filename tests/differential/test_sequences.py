"""Whole lives of pods come out the same, call by call, whether the kubelet's calls pass the proxy or not."""

from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kubelet import Kubelet

from differential.calls import OPTIONS, Sent
from differential.comparing import assert_none, differences_of_sequence
from differential.conftest import Sides
from differential.names import Names
from differential.recording import recording
from differential.sequences import SEQUENCE_LABELS, sequences
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # an example takes a second, and shrinking one minutes
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_any_sequence_of_calls_is_answered_as_without_the_proxy(
    sides: Sides, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    logs = str(tmp_path_factory.getbasetemp() / "sequences")
    drawn = data.draw(sequences(sides.standing.image, logs))
    assert_none(sides.runner.run(differences_of_sequence(sides.direct, sides.proxied, drawn, sides)))


def test_a_recorded_life_of_a_pod_is_answered_as_without_the_proxy(sides: Sides, tmp_path: Path) -> None:
    recorded = sides.runner.run(record(sides, tmp_path))
    assert len({sent.method for sent in recorded}) > 20
    assert_none(sides.runner.run(differences_of_sequence(sides.direct, sides.proxied, recorded, sides)))


async def record(sides: Sides, directory: Path) -> list[Sent]:
    """What a kubelet says to containerd in a pod's life, with names for the ids."""
    async with (
        recording(sides.containerd, directory / "recorder.sock") as recorder,
        grpc.aio.insecure_channel(f"unix:{directory}/recorder.sock", options=OPTIONS) as channel,
    ):
        names = Names()
        await live(Kubelet(channel, directory / "pods"), sides.standing.image, names)
        return [names.to_names(sent) for sent in recorder.calls]


async def live(kubelet: Kubelet, image: str, names: Names) -> None:
    """A kubelet's calls for one pod: an init container that has to be run twice, a main container with probes, the end.

    names: gets the ids.
    """
    relist: tuple[tuple[Message, type[Message]], ...] = (
        (cri.ListPodSandboxRequest(), cri.ListPodSandboxResponse),
        (cri.ListContainersRequest(), cri.ListContainersResponse),
    )
    await kubelet.call(cri.VersionRequest(version="0.1.0"), cri.VersionResponse)
    await kubelet.call(cri.StatusRequest(), cri.StatusResponse)
    await kubelet.call(cri.UpdateRuntimeConfigRequest(), cri.UpdateRuntimeConfigResponse)
    await kubelet.call(cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
    pod = await kubelet.run_pod_sandbox("recorded", labels=SEQUENCE_LABELS)
    names.add("sandbox", pod.sandbox_id)
    await kubelet.call(cri.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox_id), cri.PodSandboxStatusResponse)
    await kubelet.call(cri.ImageStatusRequest(image=cri.ImageSpec(image=image)), cri.ImageStatusResponse)
    image_id = await kubelet.pull(image)
    for name, attempt, command in (("init", 0, "false"), ("init", 1, "true"), ("main", 0, "sleep 600")):
        ends = "never" if name == "main" else "at once"
        container = await kubelet.create_container(
            pod,
            image_id,
            name=name,
            attempt=attempt,
            command=command.split(),
            env={"FOO": b"\xff"},
            labels={**SEQUENCE_LABELS, "ends": ends},
        )
        names.add("container", container)
        await kubelet.start(container)
        if ends == "at once":
            await kubelet.wait_until_exited(container)
        await kubelet.call(cri.ContainerStatusRequest(container_id=container), cri.ContainerStatusResponse)
        for request, response in relist:
            await kubelet.call(request, response)
    for exit_code in (0, 1):
        probe = cri.ExecSyncRequest(container_id=container, cmd=["sh", "-c", f"exit {exit_code}"], timeout=5)
        await kubelet.call(probe, cri.ExecSyncResponse)
    await kubelet.call(cri.ListContainerStatsRequest(), cri.ListContainerStatsResponse)
    with suppress(grpc.aio.AioRpcError):  # containerd 1.6 has none for a pod without a cgroup of its own
        await kubelet.call(cri.PodSandboxStatsRequest(pod_sandbox_id=pod.sandbox_id), cri.PodSandboxStatsResponse)
    await kubelet.call(cri.ReopenContainerLogRequest(container_id=container), cri.ReopenContainerLogResponse)
    await kubelet.call(cri.ExecRequest(container_id=container, cmd=["sh"], stdout=True), cri.ExecResponse)
    await kubelet.call(cri.AttachRequest(container_id=container, stdout=True), cri.AttachResponse)
    await kubelet.call(cri.PortForwardRequest(pod_sandbox_id=pod.sandbox_id), cri.PortForwardResponse)
    resources = cri.LinuxContainerResources(cpu_shares=256)
    update = cri.UpdateContainerResourcesRequest(container_id=container, linux=resources)
    await kubelet.call(update, cri.UpdateContainerResourcesResponse)
    await kubelet.call(cri.ListImagesRequest(), cri.ListImagesResponse)
    await kubelet.stop(container, grace_period_s=0)
    await kubelet.details(container)
    await kubelet.remove(container)
    await kubelet.remove_sandbox(pod.sandbox_id)
    for request, response in relist:
        await kubelet.call(request, response)
