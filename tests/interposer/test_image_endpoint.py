"""A runtime whose images are another service's, behind a socket of its own: here a second containerd."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from kubelet import Kubelet, Proxy
from testbed import Testbed
from testbed.programs import Daemon

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

CONFIG = """\
remote_runtime_endpoints:
  default: {containerd}
remote_image_endpoints:
  default: unix://{images}
slurm:
  known_hosts: {known_hosts}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageService:
    """A containerd that nobody asks for pods."""

    socket: Path
    daemon: Daemon

    def start(self) -> None:
        self.daemon.start()
        self.daemon.wait_ready("listens", self.socket.is_socket, timeout_s=60)


@pytest.fixture
def images(bed: Testbed, tmp_path: Path) -> Iterator[ImageService]:
    directory = tmp_path / "images"
    directory.mkdir()
    socket = directory / "images.sock"
    config = re.sub(r'(?m)^root = ".*"', f'root = "{directory}/root"', bed.node.config.read_text())
    config = re.sub(r'(?m)^state = ".*"', f'state = "{directory}/state"', config)
    config = config.replace(str(bed.node.socket), str(socket))
    (directory / "config.toml").write_text(config)
    service = ImageService(
        socket=socket,
        daemon=Daemon(
            name="image service",
            argv=("containerd", "--config", str(directory / "config.toml")),
            pid_file=directory / "pid",
            log=directory / "log",
        ),
    )
    service.start()
    yield service
    service.daemon.stop()


@pytest.fixture
async def kubelet(bed: Testbed, tmp_path: Path, images: ImageService) -> AsyncIterator[Kubelet]:
    config = tmp_path / "config.yaml"
    config.write_text(
        CONFIG.format(containerd=bed.node.socket, images=images.socket, known_hosts=bed.cluster.known_hosts)
    )
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    async with Kubelet.of(proxy.socket_path, tmp_path) as kubelet:
        yield kubelet
    proxy.terminate()


async def refused(kubelet: Kubelet, path: str, request: Message | None = None) -> grpc.StatusCode:
    """The status of a call that must not succeed."""
    body = request.SerializeToString() if request else b""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await kubelet.channel.unary_unary(path)(body, timeout=20)
    code: grpc.StatusCode = raised.value.code()
    return code


async def test_images_are_the_image_services_and_pods_the_runtimes(
    bed: Testbed, kubelet: Kubelet, images: ImageService
) -> None:
    name = bed.registry.busybox
    async with Kubelet.of(bed.node.socket, kubelet.logs) as runtime, Kubelet.of(images.socket, kubelet.logs) as service:
        await runtime.call(cri.RemoveImageRequest(image=cri.ImageSpec(image=name)), cri.RemoveImageResponse)
        await kubelet.pull(name)
        # containerd 1.6 does not hear the filter
        assert [image.repo_tags for image in await kubelet.images(name)] == [[name]]
        assert [name] not in [image.repo_tags for image in await runtime.images(name)]
        assert [name] in [image.repo_tags for image in await service.images(name)]
        filesystem = await kubelet.call(cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
        [mountpoint] = [usage.fs_id.mountpoint for usage in filesystem.image_filesystems]
        assert mountpoint.startswith(str(images.socket.parent))

        pod = await kubelet.run_pod_sandbox("elsewhere")
        assert [found.id for found in await runtime.sandboxes()] == [found.id for found in await kubelet.sandboxes()]
        assert not await service.sandboxes()
        await kubelet.remove_sandbox(pod.sandbox_id)


async def test_an_image_service_that_is_down_fails_image_calls_alone(
    bed: Testbed, kubelet: Kubelet, images: ImageService
) -> None:
    images.daemon.stop()
    for path in ("ListImages", "ImageFsInfo", "OfNextYear"):
        assert await refused(kubelet, f"/runtime.v1.ImageService/{path}") is grpc.StatusCode.UNAVAILABLE
    pull = cri.PullImageRequest(image=cri.ImageSpec(image=bed.registry.busybox))
    assert await refused(kubelet, "/runtime.v1.ImageService/PullImage", pull) is grpc.StatusCode.UNAVAILABLE

    pod = await kubelet.run_pod_sandbox("goes-on")
    await kubelet.remove_sandbox(pod.sandbox_id)
    assert (await kubelet.call(cri.StatusRequest(), cri.StatusResponse)).status.conditions
    assert await refused(kubelet, "/runtime.v1.RuntimeService/OfNextYear") is grpc.StatusCode.UNIMPLEMENTED
    assert await kubelet.pull(f"multicri/docker-repository.{bed.registry.busybox}")

    images.start()
    await kubelet.pull(bed.registry.busybox)
    assert await refused(kubelet, "/runtime.v1.ImageService/OfNextYear") is grpc.StatusCode.UNIMPLEMENTED


async def test_an_image_service_that_hangs_holds_up_image_calls_alone(kubelet: Kubelet, images: ImageService) -> None:
    images.daemon.signal(signal.SIGSTOP)
    try:
        listing = asyncio.ensure_future(kubelet.images())
        for _ in range(20):
            assert isinstance(await kubelet.sandboxes(), list)
        assert not listing.done()
    finally:
        images.daemon.signal(signal.SIGCONT)
    assert isinstance(await asyncio.wait_for(listing, 60), list)
