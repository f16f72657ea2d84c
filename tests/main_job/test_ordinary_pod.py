"""An ordinary pod in a real containerd, through the proxy."""

from pathlib import Path

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import read_log
from testbed import Testbed

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed


async def test_a_pod_runs_in_containerd_from_pull_to_removal(bed: Testbed, kubelet: Kubelet) -> None:
    image_id = await kubelet.pull(bed.registry.busybox)
    pod = await kubelet.run_pod_sandbox("ordinary", labels={"kind": "ordinary"})
    script = "echo to stdout; echo to stderr >&2; cat /proc/1/comm; exit 3"
    container = await kubelet.create_container(pod, image_id, command=["sh", "-c", script])
    await kubelet.start(container)
    status = await kubelet.wait_until_exited(container)
    assert (status.exit_code, status.reason) == (3, "Error")
    assert sorted(read_log(pod, stream="stdout")) == ["sh\n", "to stdout\n"]
    assert read_log(pod, stream="stderr") == ["to stderr\n"]
    assert bed.node.ctr("-n", "k8s.io", "containers", "info", container).returncode == 0
    await kubelet.remove(container)
    await kubelet.remove_sandbox(pod.sandbox_id)
    assert not [found for found in await kubelet.sandboxes() if found.id == pod.sandbox_id]


async def test_exec_works_in_it(bed: Testbed, kubelet: Kubelet) -> None:
    image_id = await kubelet.pull(bed.registry.busybox)
    pod = await kubelet.run_pod_sandbox("exec")
    container = await kubelet.create_container(pod, image_id, command=["sleep", "600"])
    await kubelet.start(container)
    request = cri.ExecSyncRequest(container_id=container, cmd=["sh", "-c", "echo inside; exit 7"], timeout=20)
    ran = await kubelet.call(request, cri.ExecSyncResponse)
    assert (ran.stdout, ran.exit_code) == (b"inside\n", 7)
    url = (await kubelet.call(cri.ExecRequest(container_id=container, cmd=["sh"], stdout=True), cri.ExecResponse)).url
    assert url.startswith("http://127.0.0.1:")


async def test_containerd_answers_byte_for_byte_as_without_the_proxy(bed: Testbed, proxy: Proxy) -> None:
    unknown = cri.ContainerStatusRequest(container_id="f" * 64).SerializeToString()
    calls = [
        ("/runtime.v1.RuntimeService/Version", b""),
        ("/runtime.v1.RuntimeService/ContainerStatus", unknown),
        ("/runtime.v1.RuntimeService/StopContainer", unknown),
        (
            "/runtime.v1.RuntimeService/RunPodSandbox",
            cri.RunPodSandboxRequest(runtime_handler="nvidia").SerializeToString(),
        ),
        ("/runtime.v1.ImageService/ImageStatus", cri.ImageStatusRequest().SerializeToString()),
        ("/runtime.v1.RuntimeService/BornNextYear", b"\x0a\x01x"),
        ("/runtime.v1alpha2.RuntimeService/Version", b""),
        ("/grpc.health.v1.Health/Check", b""),
        ("/runtime.v1.RuntimeService/ContainerStatus", b"\xff\xff not protobuf"),
    ]
    async with (
        grpc.aio.insecure_channel(f"unix:{bed.node.socket}", (("grpc.default_authority", "localhost"),)) as direct,
        grpc.aio.insecure_channel(f"unix:{proxy.socket_path}") as proxied,
    ):
        for path, request in calls:
            answers = []
            for channel in (direct, proxied):
                rpc = channel.unary_unary(path)(request, timeout=20)
                answers.append((await rpc.code(), await rpc.details(), tuple(await rpc.trailing_metadata())))
                if answers[-1][0] is grpc.StatusCode.OK:
                    answers[-1] += (await rpc,)
            assert answers[0] == answers[1], path


async def test_containerds_own_handlers_keep_working(kubelet: Kubelet, bed: Testbed) -> None:
    pod = await kubelet.run_pod_sandbox("alt", handler="alt")
    assert bed.node.ctr("-n", "k8s.io", "containers", "info", pod.sandbox_id).returncode == 0
    with pytest.raises(grpc.aio.AioRpcError, match='no runtime for "nvidia" is configured'):
        await kubelet.run_pod_sandbox("gpu", handler="nvidia")


async def test_a_runtime_that_is_down_is_unavailable_and_answers_when_it_is_back(
    bed: Testbed, kubelet: Kubelet, tmp_path: Path
) -> None:
    bed.node.kill()
    try:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await kubelet.sandboxes()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        bed.node.start()
    assert isinstance(await kubelet.sandboxes(), list)
