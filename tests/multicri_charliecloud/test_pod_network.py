"""Pods with a network namespace of their own by CNI, in which their containers run; root's daemon alone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import PodOnNode, read_log
from streaming.spdy_client import Spdy
from testbed.machine import remove_bridge
from testbed.pod_network import BRIDGE, PodNetwork

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

SERVES = "mkdir /tmp/w; echo from {} >/tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w"
WAITS = "until wget -q -O- http://{}/; do sleep 0.05; done"


@pytest.fixture
def who() -> str:
    return "root"


@pytest.fixture
def network(place: Path) -> Iterator[PodNetwork]:
    yield PodNetwork(place)
    remove_bridge(BRIDGE)


@pytest.fixture
def config(network: PodNetwork) -> str:
    return (
        "remote_runtime_endpoints: {{}}\nstream_port: 0\nenable_pod_network: true\n"
        f"network_bin_dir: {network.bin_dir}\nnetwork_conf_dir: {network.conf_dir}\n"
        "charliecloud: {{directory: {directory}}}\n{images}"
    )


async def test_pods_have_ports_names_and_sysctls_of_their_own(
    kubelet: Kubelet, proxy: Proxy, network: PodNetwork, image: str
) -> None:
    await kubelet.pull(image)
    sysctls = {"net.core.somaxconn": "77", "kernel.shm_rmid_forced": "1"}
    linux = cri.LinuxPodSandboxConfig(sysctls=sysctls)
    servers = {}
    for name in ("one", "two"):  # both have port 80, which only root may have on the node
        pod = await kubelet.run_pod_sandbox(name, more=cri.PodSandboxConfig(linux=linux))
        servers[await _started(kubelet, pod, image, SERVES.format(name))] = pod
    one, two = servers.values()
    addresses = [await _address(kubelet, pod) for pod in servers.values()]
    assert len(set(addresses)) == 2

    beside = await _started(kubelet, one, image, WAITS.format("127.0.0.1"), name="beside")
    await kubelet.wait_until_exited(beside)
    across = await _started(kubelet, one, image, WAITS.format(addresses[1]), name="across")
    await kubelet.wait_until_exited(across)
    assert read_log(one, name="beside")[-1] == "from one\n"
    assert read_log(one, name="across")[-1] == "from two\n"
    for address, name in zip(addresses, ("one", "two"), strict=True):  # as an httpGet probe and a Service do
        assert await _fetched(address) == f"from {name}\n"

    container = next(iter(servers))
    script = "hostname; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced; ip -4 -o addr show eth0"
    request = cri.ExecSyncRequest(container_id=container, cmd=["sh", "-c", script], timeout=30)
    said = (await kubelet.call(request, cri.ExecSyncResponse)).stdout.decode()
    assert said.splitlines()[:3] == ["one", "77", "1"]
    assert addresses[0] in said
    assert Path("/proc/sys/net/core/somaxconn").read_text() != "77\n"

    proxy.kill()
    await proxy.start()
    assert b"from two" in await _forwarded(kubelet, two)
    for pod in (one, two):
        await kubelet.remove_sandbox(pod.sandbox_id)
    assert network.left() == []


async def test_a_pod_on_the_nodes_network_has_the_nodes(kubelet: Kubelet, image: str, network: PodNetwork) -> None:
    await kubelet.pull(image)
    options = cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER)
    security = cri.LinuxSandboxSecurityContext(namespace_options=options)
    more = cri.PodSandboxConfig(linux=cri.LinuxPodSandboxConfig(security_context=security))
    pod = await kubelet.run_pod_sandbox("host", more=more)
    container = await _started(kubelet, pod, image, "readlink /proc/self/ns/net")
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    assert read_log(pod) == [f"{Path('/proc/self/ns/net').readlink()}\n"]
    assert network.left() == []


async def _started(kubelet: Kubelet, pod: PodOnNode, image: str, script: str, name: str = "main") -> str:
    container = await kubelet.create_container(pod, image, name=name, command=["sh", "-c", script])
    await kubelet.start(container)
    return container


async def _address(kubelet: Kubelet, pod: PodOnNode) -> str:
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox_id)
    return (await kubelet.call(request, cri.PodSandboxStatusResponse)).status.network.ip


async def _fetched(address: str) -> str:
    reader, writer = await asyncio.open_connection(address, 80)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode().rpartition("\r\n\r\n")[2]


async def _forwarded(kubelet: Kubelet, pod: PodOnNode) -> bytes:
    forward = cri.PortForwardRequest(pod_sandbox_id=pod.sandbox_id, port=[80])
    spdy = await Spdy.connect((await kubelet.call(forward, cri.PortForwardResponse)).url, "portforward.k8s.io")
    error = await spdy.open(streamType="error", port="80", requestID="1")
    await spdy.send(error, b"", fin=True)
    stream = await spdy.open(streamType="data", port="80", requestID="1")
    await spdy.send(stream, b"GET / HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(60):
        await spdy.until(lambda: error.ended or stream.ended)
    await spdy.close()
    return bytes(stream.data)
