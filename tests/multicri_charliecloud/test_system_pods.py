"""What a cluster's own pods ask for: CoreDNS, metrics-server and local-path-provisioner, played by Debian's programs.

Each has the security context and the volumes of the original's manifest.
"""

import asyncio
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet
from kubelet.client import PodOnNode, read_log
from testbed import Testbed
from testbed.machine import remove_bridge
from testbed.pod_network import BRIDGE, PodNetwork

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

COREFILE = "port={}\nno-hosts\nno-resolv\naddn-hosts=/etc/coredns/names\nlocal=/cluster.local/\n"
MOUNTED = "/var/run/secrets/kubernetes.io/serviceaccount"
NAMES = "10.96.0.1 kubernetes.default.svc.cluster.local\n"
RUNTIME_DEFAULT = cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault)
ON_NODE = cri.PodSandboxConfig(
    linux=cri.LinuxPodSandboxConfig(
        security_context=cri.LinuxSandboxSecurityContext(
            namespace_options=cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER)
        )
    )
)


def _secure(*, user: int | None = None, add: tuple[str, ...] = ()) -> cri.LinuxContainerSecurityContext:
    """As restricted pods have it."""
    return cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(add_capabilities=add, drop_capabilities=["ALL"]),
        namespace_options=cri.NamespaceOption(pid=cri.CONTAINER),
        readonly_rootfs=True,
        no_new_privs=True,
        run_as_user=None if user is None else cri.Int64Value(value=user),
        seccomp=RUNTIME_DEFAULT,
    )


@pytest.fixture
def network(place: Path) -> Iterator[PodNetwork]:
    yield PodNetwork(place)
    remove_bridge(BRIDGE)


@pytest.fixture
def config(network: PodNetwork, who: str) -> str:
    return (
        f"remote_runtime_endpoints: {{{{}}}}\nstream_port: 0\nenable_pod_network: {str(who == 'root').lower()}\n"
        f"network_bin_dir: {network.bin_dir}\nnetwork_conf_dir: {network.conf_dir}\n"
        "charliecloud: {{directory: {directory}}}\n{images}"
    )


@pytest.fixture
def dns_image(bed: Testbed) -> str:
    return f"{bed.registry.address}/{bed.push_dns_image().partition('/')[2]}"


@pytest.fixture
def plain(bed: Testbed) -> str:
    return f"{bed.registry.address}/{bed.registry.busybox.partition('/')[2]}"


def _corefile(place: Path, port: int) -> cri.Mount:
    """Its ConfigMap."""
    directory = place / "corefile"
    directory.mkdir()
    (directory / "Corefile").write_text(COREFILE.format(port))
    (directory / "names").write_text(NAMES)
    return cri.Mount(container_path="/etc/coredns", host_path=str(directory), readonly=True)


@pytest.mark.parametrize("who", ["root"])
async def test_a_clusters_dns_has_port_53_of_its_pod_and_other_pods_resolve_by_it(
    kubelet: Kubelet, dns_image: str, plain: str, place: Path
) -> None:
    """With NET_BIND_SERVICE added, as its manifest has it: in a network of its own every pod has what it is for."""
    await kubelet.pull(dns_image)
    pod = await kubelet.run_pod_sandbox("coredns")
    await kubelet.start(
        await kubelet.create_container(
            pod,
            dns_image,
            args=["--keep-in-foreground", "--conf-file=/etc/coredns/Corefile", "--pid-file="],
            mounts=[_corefile(place, 53)],
            security=_secure(add=("NET_BIND_SERVICE",)),
        )
    )
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox_id)
    address = (await kubelet.call(request, cri.PodSandboxStatusResponse)).status.network.ip
    await kubelet.pull(plain)
    dns = cri.DNSConfig(servers=[address], searches=["default.svc.cluster.local"], options=["ndots:5"])
    client = await kubelet.run_pod_sandbox("client", more=cri.PodSandboxConfig(dns_config=dns))
    script = "until nslookup kubernetes.default.svc.cluster.local; do sleep 0.1; done; ping -c 1 -q kubernetes; :"
    container = await kubelet.create_container(client, plain, command=["sh", "-c", script])
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    log = "".join(read_log(client))
    assert "PING kubernetes (10.96.0.1)" in log, log


async def test_a_clusters_dns_on_the_nodes_network_has_an_unprivileged_port(
    kubelet: Kubelet, dns_image: str, place: Path
) -> None:
    await kubelet.pull(dns_image)
    pod = await kubelet.run_pod_sandbox("coredns", more=ON_NODE)
    port = _free_port(socket.SOCK_DGRAM)
    args = ["--keep-in-foreground", "--conf-file=/etc/coredns/Corefile", "--pid-file="]
    mounts = [_corefile(place, port)]
    with pytest.raises(grpc.aio.AioRpcError, match="add_capabilities: NET_BIND_SERVICE"):
        await kubelet.create_container(
            pod, dns_image, args=args, mounts=mounts, security=_secure(add=("NET_BIND_SERVICE",))
        )
    await kubelet.start(await kubelet.create_container(pod, dns_image, args=args, mounts=mounts, security=_secure()))
    assert await _resolved("kubernetes.default.svc.cluster.local", port) == "10.96.0.1"


async def test_a_metrics_server_serves_the_nodes_network_as_a_user_of_its_own(
    kubelet: Kubelet, plain: str, place: Path, who: str
) -> None:
    """root's kubelet gives its token to that user alone."""
    token = place / "serviceaccount/token"
    token.parent.mkdir()
    token.write_text("secret\n")
    shutil.chown(token, 1000 if who == "root" else "nobody")
    token.chmod(0o600)
    await kubelet.pull(plain)
    pod = await kubelet.run_pod_sandbox("metrics-server", more=ON_NODE)
    port = _free_port(socket.SOCK_STREAM)
    account = cri.Mount(container_path=MOUNTED, host_path=str(token.parent), readonly=True)
    script = f"(id -u; cat {MOUNTED}/token) >/tmp/index.html; exec httpd -f -p {port} -h /tmp"
    container = await kubelet.create_container(
        pod, plain, command=["sh", "-c", script], mounts=[account], security=_secure(user=1000)
    )
    await kubelet.start(container)
    assert await _fetched(port) == "1000\nsecret\n"
    probe = cri.ExecSyncRequest(container_id=container, cmd=["wget", "-q", "-O-", f"http://127.0.0.1:{port}/"])
    assert (await kubelet.call(probe, cri.ExecSyncResponse)).stdout == b"1000\nsecret\n"


async def test_a_local_path_provisioner_makes_directories_that_other_pods_mount(
    kubelet: Kubelet, plain: str, place: Path
) -> None:
    """Its helper pods make and remove them; containers of all pods are one user of the node, who must own the root."""
    root = place / "local-path"
    root.mkdir()
    shutil.chown(root, "nobody")
    await kubelet.pull(plain)
    volume = cri.Mount(container_path="/opt/local-path-provisioner", host_path=str(root))
    helper = await kubelet.run_pod_sandbox("helper", more=ON_NODE)
    made = await _finished(kubelet, helper, plain, "mkdir -m 0777 /opt/local-path-provisioner/pvc-1", [volume])
    assert made == 0
    user = await kubelet.run_pod_sandbox("user")
    claim = cri.Mount(container_path="/data", host_path=str(root / "pvc-1"))
    assert await _finished(kubelet, user, plain, "echo kept >/data/file", [claim]) == 0
    assert (root / "pvc-1/file").read_text() == "kept\n"
    script = "rm -rf /opt/local-path-provisioner/pvc-1"
    assert await _finished(kubelet, helper, plain, script, [volume], name="teardown") == 0
    assert list(root.iterdir()) == []


async def _finished(
    kubelet: Kubelet, pod: PodOnNode, image: str, script: str, mounts: list[cri.Mount], name: str = "main"
) -> int:
    container = await kubelet.create_container(
        pod, image, name=name, command=["sh", "-c", script], mounts=mounts, security=_secure()
    )
    await kubelet.start(container)
    return (await kubelet.wait_until_exited(container)).exit_code


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(type=kind) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def _fetched(port: int) -> str:
    async with asyncio.timeout(60):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer.decode().rpartition("\r\n\r\n")[2]


async def _resolved(name: str, port: int) -> str:
    """The address that a DNS server at a port of the node has for a name. Source: RFC 1035, section 4."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, 1, 1)
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        async with asyncio.timeout(60):
            while True:
                try:
                    await loop.sock_connect(client, ("127.0.0.1", port))
                    await loop.sock_sendall(client, question)
                    return socket.inet_ntoa((await loop.sock_recv(client, 512))[-4:])
                except ConnectionRefusedError:  # it does not listen yet
                    await asyncio.sleep(0.05)
