"""No other runtime on the node: every pod and every image is ours, by their ordinary names."""

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import read_log
from testbed import Testbed
from testbed.door import PASSWORD, USER, Door

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed


@pytest.fixture
def image_format() -> str:
    return "directory"


@pytest.fixture
def config(image_format: str) -> str:
    """No adapter is named: there is no other runtime, and no cluster."""
    section = f"charliecloud: {{{{directory: {{directory}}, image_format: {image_format}}}}}"
    return f"remote_runtime_endpoints: {{{{}}}}\nstream_port: 0\n{section}\n{{images}}"


@pytest.fixture
def plain(bed: Testbed) -> str:
    return f"{bed.registry.address}/{bed.registry.busybox.partition('/')[2]}"


async def test_a_pod_with_no_handler_and_an_ordinary_image_runs(kubelet: Kubelet, plain: str) -> None:
    image_id = await kubelet.pull(plain)
    pod = await kubelet.run_pod_sandbox("ordinary")
    container = await kubelet.create_container(pod, image_id, command=["sh", "-c", "echo here; exit 4"])
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 4
    assert read_log(pod) == ["here\n"]


async def test_an_image_is_on_the_node_when_it_is_pulled_and_gone_when_it_is_removed(
    kubelet: Kubelet, proxy: Proxy, plain: str
) -> None:
    before = await _images_bytes(kubelet)
    image_id = await kubelet.pull(plain)
    path = proxy.directory / "charliecloud/images" / image_id.removeprefix("sha256:")
    assert (path / "bin/busybox").is_file()
    assert await _images_bytes(kubelet) >= before + (path / "bin/busybox").stat().st_size
    [image] = await kubelet.images()
    assert list(image.repo_tags) == [plain]
    assert image.repo_digests[0].startswith(f"{plain.rpartition(':')[0]}@sha256:")
    assert [one.id for one in await kubelet.images(image.repo_digests[0])] == [image_id]
    spec = cri.ImageSpec(image=plain)
    status = await kubelet.call(cri.ImageStatusRequest(image=spec, verbose=True), cri.ImageStatusResponse)
    assert f"{path}: built" in status.info["info"]
    await kubelet.call(cri.RemoveImageRequest(image=cri.ImageSpec(image=plain)), cri.RemoveImageResponse)
    assert await kubelet.images() == []
    await _until_gone(path)
    assert await _images_bytes(kubelet) == before


@pytest.mark.parametrize("image_format", ["squashfs"])
async def test_an_image_may_be_kept_as_one_file(kubelet: Kubelet, proxy: Proxy, plain: str) -> None:
    image_id = await kubelet.pull(plain)
    path = proxy.directory / f"charliecloud/images/{image_id.removeprefix('sha256:')}.sqfs"
    assert path.is_file()
    assert await _images_bytes(kubelet) >= path.stat().st_size
    pod = await kubelet.run_pod_sandbox("squashed")
    container = await kubelet.create_container(pod, image_id, command=["sh", "-c", "echo $FOO >/etc/new; cat /etc/new"])
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    assert read_log(pod) == ["fromimage\n"]
    await kubelet.call(cri.RemoveImageRequest(image=cri.ImageSpec(image=plain)), cri.RemoveImageResponse)
    await _until_gone(path)


async def test_an_image_that_cannot_be_had_was_not_pulled(kubelet: Kubelet, plain: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="missing"):
        await kubelet.pull(plain.replace("busybox", "missing"))
    assert await kubelet.images() == []


async def test_a_private_registry_lets_in_who_has_a_password(kubelet: Kubelet, bed: Testbed, plain: str) -> None:
    with Door(registry=bed.registry, port=5443, private=True).opened() as door:
        spec = cri.ImageSpec(image=plain.replace(bed.registry.address, door.name))
        with pytest.raises(grpc.aio.AioRpcError, match="imagePullSecret") as raised:
            await kubelet.call(cri.PullImageRequest(image=spec), cri.PullImageResponse)
        assert raised.value.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION}
        auth = cri.AuthConfig(username=USER, password=PASSWORD)
        pulled = await kubelet.call(cri.PullImageRequest(image=spec, auth=auth), cri.PullImageResponse)
    pod = await kubelet.run_pod_sandbox("private")
    container = await kubelet.create_container(pod, pulled.image_ref, command=["true"])
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0


async def test_a_kubelets_first_questions_are_answered(kubelet: Kubelet) -> None:
    version = await kubelet.call(cri.VersionRequest(version="0.1.0"), cri.VersionResponse)
    assert (version.runtime_name, version.runtime_api_version) == ("multicri", "v1")
    status = await kubelet.call(cri.StatusRequest(), cri.StatusResponse)
    assert {one.type: one.status for one in status.status.conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert [one.name for one in status.runtime_handlers] == ["", "multicri"]
    config = await kubelet.call(cri.RuntimeConfigRequest(), cri.RuntimeConfigResponse)
    assert config.linux.cgroup_driver == cri.CGROUPFS
    network = cri.NetworkConfig(pod_cidr="10.1.0.0/24")
    update = cri.UpdateRuntimeConfigRequest(runtime_config=cri.RuntimeConfig(network_config=network))
    await kubelet.call(update, cri.UpdateRuntimeConfigResponse)
    for request in (
        cri.ListPodSandboxRequest(),
        cri.ListContainersRequest(),
        cri.ListContainerStatsRequest(),
        cri.ListPodSandboxStatsRequest(),
        cri.ListPodSandboxMetricsRequest(),
        cri.ListMetricDescriptorsRequest(),
        cri.ListImagesRequest(),
        cri.ImageFsInfoRequest(),
    ):
        await kubelet.call(request, getattr(cri, type(request).__name__.replace("Request", "Response")))


async def test_what_happens_to_a_container_is_told_as_it_happens(kubelet: Kubelet, plain: str) -> None:
    await kubelet.pull(plain)
    pod = await kubelet.run_pod_sandbox("events")
    events = kubelet.channel.unary_stream("/runtime.v1.RuntimeService/GetContainerEvents")(b"")
    container = await kubelet.create_container(pod, plain, command=["true"])
    await kubelet.start(container)
    kinds: list[cri.ContainerEventType] = []
    async with asyncio.timeout(60):
        async for message in events:
            event = cri.ContainerEventResponse.FromString(message)
            if event.container_id == container:
                kinds.append(event.container_event_type)
            if event.container_event_type == cri.CONTAINER_STOPPED_EVENT:
                break
    events.cancel()
    assert kinds[-2:] == [cri.CONTAINER_STARTED_EVENT, cri.CONTAINER_STOPPED_EVENT]


async def _images_bytes(kubelet: Kubelet) -> int:
    info = await kubelet.call(cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
    systems: Sequence[cri.FilesystemUsage] = info.image_filesystems
    assert Path(systems[0].fs_id.mountpoint).is_dir()
    return systems[0].used_bytes.value


async def _until_gone(path: Path) -> None:
    async with asyncio.timeout(60):
        while path.exists():
            await asyncio.sleep(0.05)


async def test_an_ordinary_user_needs_no_configuration(place: Path) -> None:
    """The socket is where the user's others are, all else among what the user's programs keep."""
    for name in ("state", "run"):
        (place / name).mkdir()
        shutil.chown(place / name, "nobody")
    become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    environment = {"PATH": os.environ["PATH"], "XDG_STATE_HOME": f"{place}/state", "XDG_RUNTIME_DIR": f"{place}/run"}
    argv = (*become, sys.executable, "-m", "multicri_proxy", "serve", "--remote-runtime-endpoints=")
    daemon = await asyncio.create_subprocess_exec(*argv, env=environment, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(60), Kubelet.of(place / "run/multicri.sock", place / "pods") as kubelet:
            while not (place / "run/multicri.sock").exists():
                await asyncio.sleep(0.05)
            status = await kubelet.call(cri.StatusRequest(verbose=True), cri.StatusResponse)
            assert "charliecloud" in status.info["info"]
            info = await kubelet.call(cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
            assert info.image_filesystems[0].fs_id.mountpoint.startswith(str(place / "state/multicri-proxy"))
            assert (place / "run/multicri-admin.sock").exists()
    finally:
        daemon.terminate()
        await daemon.wait()
