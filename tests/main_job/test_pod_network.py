"""Slurm pods with IPs of their own: a server in a job, reached as a Service would, and kills of the proxy."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import PodOnNode
from streaming.spdy_client import Spdy
from testbed import Testbed
from testbed.machine import remove_bridge
from testbed.pod_network import BRIDGE, PodNetwork

from main_job.conftest import CONFIG
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

NEIGHBOUR, NEIGHBOUR_IP = "mcri-neighbour", "10.97.0.250"
NODE_IP, OUTSIDER_IP = "10.98.0.1", "10.98.0.2"
PORT, HOST_PORT = 8765, 18765
SERVES = ["sh", "-c", f"mkdir /tmp/w; echo from the job > /tmp/w/index.html; exec httpd -f -p {PORT} -h /tmp/w"]
NETWORK = "\nenable_pod_network: true\nnetwork_bin_dir: {bin_dir}\nnetwork_conf_dir: {conf_dir}\n"


@pytest.fixture
def pod_network(tmp_path: Path) -> Iterator[PodNetwork]:
    yield PodNetwork(tmp_path)
    remove_bridge(BRIDGE)


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path, pod_network: PodNetwork) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    text = CONFIG.format(containerd=bed.node.socket, known_hosts=bed.cluster.known_hosts)
    config.write_text(text + NETWORK.format(bin_dir=pod_network.bin_dir, conf_dir=pod_network.conf_dir))
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.fixture
def neighbour(pod_network: PodNetwork) -> Iterator[tuple[str, ...]]:
    """A command that runs another in a network namespace beside the pods', once there is a pod."""
    ip("netns", "add", NEIGHBOUR)
    yield ("ip", "netns", "exec", NEIGHBOUR)
    ip("netns", "delete", NEIGHBOUR)


def plug_in_neighbour() -> None:
    ip("link", "add", "mcri-near", "type", "veth", "peer", "name", "eth0", "netns", NEIGHBOUR)
    ip("link", "set", "mcri-near", "master", BRIDGE, "up")
    ip("-n", NEIGHBOUR, "address", "add", f"{NEIGHBOUR_IP}/24", "dev", "eth0")
    ip("-n", NEIGHBOUR, "link", "set", "eth0", "up")


def plug_in_beside_the_node() -> None:
    """The same namespace, once more: not on the pods' network."""
    ip("link", "add", "mcri-node", "type", "veth", "peer", "name", "eth1", "netns", NEIGHBOUR)
    ip("address", "add", f"{NODE_IP}/24", "dev", "mcri-node")
    ip("link", "set", "mcri-node", "up")
    ip("-n", NEIGHBOUR, "address", "add", f"{OUTSIDER_IP}/24", "dev", "eth1")
    ip("-n", NEIGHBOUR, "link", "set", "eth1", "up")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=20)


async def fetched(address: str, *before: str, port: int = PORT) -> str:
    process = await asyncio.create_subprocess_exec(
        *before, "curl", "-sS", "--noproxy", "*", "--max-time", "5", f"http://{address}:{port}/", stdout=-1, stderr=-2
    )
    said, _ = await process.communicate()
    return said.decode()


async def eventually_fetched(address: str, *before: str, port: int = PORT) -> None:
    async with asyncio.timeout(60):
        while (said := await fetched(address, *before, port=port)) != "from the job\n":
            assert "curl: (" in said
            await asyncio.sleep(0.1)


async def eventually_left(pod_network: PodNetwork, expected: list[str]) -> None:
    deadline = time.monotonic() + 60
    while (left := pod_network.left()) != expected:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)


async def forwarded(kubelet: Kubelet, pod: PodOnNode) -> bytes:
    """What the job's server answers to a client of kubectl port-forward."""
    request = cri.PortForwardRequest(pod_sandbox_id=pod.sandbox_id, port=[PORT])
    spdy = await Spdy.connect((await kubelet.call(request, cri.PortForwardResponse)).url, "portforward.k8s.io")
    await spdy.open(streamType="error", port=str(PORT), requestID="0")
    data = await spdy.open(streamType="data", port=str(PORT), requestID="0")
    await spdy.send(data, b"GET / HTTP/1.0\r\n\r\n", fin=True)
    await spdy.until(lambda: data.ended)
    await spdy.close()
    return bytes(data.data)


async def run_pod(kubelet: Kubelet, name: str, *, host_port: int = 0) -> PodOnNode:
    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        log_directory=str(kubelet.logs / name),
        port_mappings=[cri.PortMapping(container_port=PORT, host_port=host_port)],
        linux=cri.LinuxPodSandboxConfig(),
    )
    request = cri.RunPodSandboxRequest(config=config, runtime_handler="multicri")
    ran = await kubelet.call(request, cri.RunPodSandboxResponse)
    return PodOnNode(sandbox_id=ran.pod_sandbox_id, config=config)


async def ip_of(kubelet: Kubelet, pod: PodOnNode) -> str:
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox_id)
    return (await kubelet.call(request, cri.PodSandboxStatusResponse)).status.network.ip


async def test_a_web_server_in_a_slurm_job_answers_at_its_pods_ip_the_nodes_port_and_port_forward_also_after_a_kill(
    kubelet: Kubelet,
    proxy: Proxy,
    pod_network: PodNetwork,
    neighbour: tuple[str, ...],
    image: str,
    account: Mapping[str, str],
) -> None:
    image_id = await kubelet.pull(image)
    pod = await run_pod(kubelet, "web", host_port=HOST_PORT)
    address = await ip_of(kubelet, pod)
    plug_in_neighbour()
    plug_in_beside_the_node()
    assert "curl: (7)" in await fetched(address, *neighbour)  # it refuses: nothing listens in the job yet
    container = await kubelet.create_container(pod, image_id, command=SERVES, env=account)
    await kubelet.start(container)
    await eventually_fetched(address, *neighbour)
    await eventually_fetched(NODE_IP, *neighbour, port=HOST_PORT)
    assert (await forwarded(kubelet, pod)).endswith(b"from the job\n")

    proxy.kill()
    await proxy.start()
    assert await ip_of(kubelet, pod) == address
    await eventually_fetched(address, *neighbour)
    await eventually_fetched(NODE_IP, *neighbour, port=HOST_PORT)

    ip("link", "delete", "mcri-near")
    ip("link", "delete", "mcri-node")
    await kubelet.remove_sandbox(pod.sandbox_id)
    assert pod_network.left() == []


@pytest.mark.parametrize("gate_at", [0, 1])
async def test_a_kill_in_the_middle_of_add_leaves_nothing(
    kubelet: Kubelet, proxy: Proxy, pod_network: PodNetwork, gate_at: int
) -> None:
    pod_network.write(gate_at=gate_at)
    running = asyncio.create_task(run_pod(kubelet, "killed"))
    async with asyncio.timeout(60):
        while not pod_network.gate.exists():
            await asyncio.sleep(0.02)
    assert pod_network.left()
    proxy.kill()
    with suppress(grpc.aio.AioRpcError):
        await running
    pod_network.write()
    await proxy.start()
    await eventually_left(pod_network, [])
    pod = await run_pod(kubelet, "killed")
    assert (await ip_of(kubelet, pod)).startswith("10.97.0.")
