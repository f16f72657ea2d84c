"""A proxy process between a kubelet's role and the test bed."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from kubelet import Kubelet, Proxy
from testbed import Testbed

CONFIG = """\
remote_runtime_endpoints:
  default: {containerd}
slurm:
  known_hosts: {known_hosts}
"""


def account_of(bed: Testbed, name: str) -> dict[str, str]:
    """The variables of a pod that runs under a user of the cluster, with a password."""
    user = bed.cluster.user(name)
    return {
        "CLUSTER_USERNAME": user.name,
        "CLUSTER_PASSWORD": user.password,
        "CLUSTER_HOST": bed.cluster.host,
        "CLUSTER_PORT": str(bed.cluster.port),
    }


@pytest.fixture
def account(bed: Testbed) -> Mapping[str, str]:
    """alice, for whom the cluster has Apptainer."""
    return account_of(bed, "alice")


@pytest.fixture
def image(bed: Testbed) -> str:
    """The test bed's busybox as an image of a multicri pod."""
    return f"multicri/docker-repository.{bed.registry.busybox}"


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(containerd=bed.node.socket, known_hosts=bed.cluster.known_hosts))
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
                await kubelet.remove_sandbox(sandbox.id)


def jobs_of(bed: Testbed, container_id: str, about: str = "%T") -> list[str]:
    """The states, or what else squeue tells, of all jobs that slurmctld knows for a container."""
    name = f"multicri-{container_id[:32]}"
    listed = bed.cluster.run("login", ["squeue", "-h", "-t", "all", "-n", name, "-o", about], check=True)
    return listed.stdout.split()
