"""A node with a network namespace of its own, real CNI plug-ins, and a runtime whose pods have networks."""

import asyncio
import ctypes
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from runtime.doubles import Client, Cluster, Node
from streaming.local_adapter import LocalAdapter

from multicri_proxy.api.adapter import Phase
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.ledger import Ledger
from multicri_proxy.network.forwarding import Limits
from multicri_proxy.network.pod_network import PodNetwork

PLUGINS = Path("/usr/lib/cni")
BRIDGE = "test-pods"
NODE_IP, NEIGHBOUR_IP = "10.99.0.1", "10.99.0.2"
_CLONE_NEWNET = 0x40000000


@pytest.fixture(autouse=True)
def private_network(tmp_path: Path) -> Iterator[None]:
    """This thread's, and that of every process and thread that it starts: it ends with the test, with all in it."""
    if os.geteuid() != 0 or not (PLUGINS / "bridge").exists():
        pytest.skip("needs root and Debian's containernetworking-plugins")
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        assert libc.unshare(_CLONE_NEWNET) == 0
        try:
            run("ip link set lo up")
            yield
        finally:
            assert libc.setns(before.fileno(), _CLONE_NEWNET) == 0
            for namespace in (tmp_path / "netns").glob("*"):
                run(f"umount {namespace}")


def run(command: str) -> str:
    ended = subprocess.run(command.split(), check=True, capture_output=True, text=True, timeout=20)
    return ended.stdout


@dataclass
class NetworkNode(Node):
    """A Node whose pods have networks by CNI. addresses: where host-local keeps its leases."""

    directory: Path
    bin_dir: Path = PLUGINS
    enabled: bool = True
    plugins: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.directory)
        self.make_adapter = LocalAdapter
        self.addresses = self.directory / "addresses"
        self.netns = self.directory / "netns"
        self.conf = self.directory / "net.d"
        self.conf.mkdir()
        ipam = {"type": "host-local", "subnet": "10.98.0.0/24", "dataDir": str(self.addresses)}
        ipam["routes"] = [{"dst": "0.0.0.0/0"}]  # type: ignore[assignment]
        self.plugins = [
            {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        self.write_conf()

    def write_conf(self) -> None:
        conf = {"cniVersion": "1.0.0", "name": "test-net", "plugins": self.plugins}
        (self.conf / "10-test.conflist").write_text(json.dumps(conf))

    def network_of(self, ledger: Ledger) -> PodNetwork:
        return PodNetwork(
            ledger.space("network"),
            enabled=self.enabled,
            conf_dir=self.conf,
            bin_dir=self.bin_dir,
            directory=self.netns,
            limits=Limits(ask_s=(0.02, 0.02)),
        )

    def pod_config(
        self, name: str = "pod", *, ports: tuple[int, ...] = (), host_ports: tuple[tuple[int, int], ...] = ()
    ) -> cri.PodSandboxConfig:
        """host_ports: each with the pod's port that it leads to."""
        config = self.sandbox_config(name)
        config.linux.security_context.namespace_options.network = cri.POD
        config.port_mappings.extend(cri.PortMapping(container_port=port) for port in ports)
        config.port_mappings.extend(cri.PortMapping(host_port=host, container_port=port) for host, port in host_ports)
        return config

    def leases(self) -> list[str]:
        """host-local's files, one for each address that is taken."""
        return sorted(path.name for path in self.addresses.glob("*/10.*"))

    def left(self) -> list[str]:
        """Whatever there is of pods' networks."""
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        namespaces = [path.name for path in self.netns.glob("*")] if self.netns.exists() else []
        links = [link["ifname"] for link in json.loads(run("ip -json link")) if link["ifname"].startswith("veth")]
        return [*namespaces, *(one for one in mounts if one.startswith(str(self.netns))), *links, *self.leases()]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["NetworkClient"]:
        async with self.running() as runtime:
            yield NetworkClient(self, runtime)


class NetworkClient(Client):
    async def run_pod(self, config: cri.PodSandboxConfig) -> str:
        request = cri.RunPodSandboxRequest(config=config, runtime_handler="multicri")
        return (await self.runtime.run_pod_sandbox(request)).pod_sandbox_id

    async def pod_ip(self, sandbox_id: str) -> str:
        return (await self.sandbox_status(sandbox_id)).network.ip

    async def running_container(self, sandbox_id: str, cluster: Cluster) -> str:
        """Its job runs."""
        container_id = await self.started(sandbox_id)
        await cluster.report(container_id, Phase.RUNNING)
        return container_id


@pytest.fixture
def network_node(tmp_path: Path) -> NetworkNode:
    return NetworkNode(tmp_path)


@pytest.fixture
async def network_client(network_node: NetworkNode) -> AsyncIterator[NetworkClient]:
    async with network_node.serving() as client:
        yield client


@pytest.fixture
def neighbour() -> Iterator[str]:
    """Another network namespace, whose way to the pods leads over this node; its name for ``ip netns exec``."""
    name = f"test-neighbour-{os.getpid()}"
    run(f"ip netns add {name}")
    try:
        run(f"ip link add test-near type veth peer name test-far netns {name}")
        run(f"ip address add {NODE_IP}/24 dev test-near")
        run("ip link set test-near up")
        run(f"ip -n {name} address add {NEIGHBOUR_IP}/24 dev test-far")
        run(f"ip -n {name} link set test-far up")
        run(f"ip -n {name} route add default via {NODE_IP}")
        yield name
    finally:
        run(f"ip netns delete {name}")


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def job_server(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """A server as a job has one: on this machine's loopback, where the test's adapter connects to. Gives its port."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        serving.add(task)
        try:
            with suppress(ConnectionError):
                await handler(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    yield server.sockets[0].getsockname()[1]
    server.close()
    async with asyncio.timeout(60):
        await asyncio.gather(*serving)


async def fetched(url: str, *before: str) -> str:
    """What curl gets, or how it fails. before: a command that runs it."""
    process = await asyncio.create_subprocess_exec(
        *before, "curl", "-sS", "--noproxy", "*", "--max-time", "10", url, stdout=-1, stderr=-2
    )
    said, _ = await process.communicate()
    return said.decode()


async def until_open(address: str, port: int) -> None:
    """Wait until it accepts, as a TCP probe does."""
    async with asyncio.timeout(60):
        while not await is_open(address, port):
            await asyncio.sleep(0.01)


async def is_open(address: str, port: int) -> bool:
    """Whether it accepts. Waits for the connection's end: a server is not to be closed with one half made."""
    try:
        reader, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    with suppress(ConnectionError):
        writer.write_eof()
        await reader.read()
    writer.close()
    return True
