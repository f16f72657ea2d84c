"""A proxy, an ordinary pod whose container runs, and what multicri pods need."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from testbed import Testbed

from isolation.ordinary import STAYS

CONFIG = """\
remote_runtime_endpoints:
  default: {containerd}
slurm:
  known_hosts: {known_hosts}
  connect_timeout_s: 15
  command_timeout_s: 15
"""


@pytest.fixture
def account(bed: Testbed) -> Mapping[str, str]:
    """alice, for whom the cluster has Apptainer."""
    user = bed.cluster.user("alice")
    return {
        "CLUSTER_USERNAME": user.name,
        "CLUSTER_PASSWORD": user.password,
        "CLUSTER_HOST": bed.cluster.host,
        "CLUSTER_PORT": str(bed.cluster.port),
        "JOB_QUEUE": "batch",
    }


@pytest.fixture
def image(bed: Testbed) -> str:
    """The test bed's busybox as an image of a multicri pod."""
    return f"multicri/docker-repository.{bed.registry.busybox}"


@pytest.fixture
def known_hosts(bed: Testbed, tmp_path: Path) -> Path:
    """The cluster's host keys, to which a test may add."""
    file = tmp_path / "known_hosts"
    file.write_text(bed.cluster.known_hosts.read_text())
    return file


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path, known_hosts: Path) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(containerd=bed.node.socket, known_hosts=known_hosts))
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.fixture
async def kubelet(proxy: Proxy, tmp_path: Path) -> AsyncIterator[Kubelet]:
    """Removes every pod that its test has left."""
    async with Kubelet.of(proxy.socket_path, tmp_path / "pods") as kubelet:
        before = {sandbox.id for sandbox in await kubelet.sandboxes()}
        yield kubelet
        for sandbox in await kubelet.sandboxes():
            if sandbox.id not in before:
                await _remove(kubelet, sandbox.id)


async def _remove(kubelet: Kubelet, sandbox_id: str) -> None:
    """As the kubelet does: again until it works. What was broken is whole again, but not at once."""
    async with asyncio.timeout(90):
        while True:
            try:
                return await kubelet.remove_sandbox(sandbox_id)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            await asyncio.sleep(0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordinary:
    """A container that runs in containerd, and its image."""

    container_id: str
    image: str


@pytest.fixture
async def ordinary(bed: Testbed, kubelet: Kubelet) -> Ordinary:
    image = bed.registry.busybox
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("ordinary")
    container_id = await kubelet.create_container(pod, image, command=["sleep", "3600"], labels=STAYS)
    await kubelet.start(container_id)
    return Ordinary(container_id=container_id, image=image)
