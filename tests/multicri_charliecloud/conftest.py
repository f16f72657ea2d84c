"""A proxy whose multicri pods are Charliecloud containers on this machine: as root, and as an ordinary user."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from kubelet import Kubelet, Proxy
from testbed import Testbed

sys.path.insert(0, str(Path(__file__).parent))

from node_processes import processes_with
from user_proxy import UserProxy

CONFIG = """\
remote_runtime_endpoints: {endpoints}
adapter_name: charliecloud
stream_port: 0
charliecloud:
  directory: {directory}
{images}"""
IMAGES = """\
images:
  registries:
    {registry}: {{ca_file: {certificate}}}
    {registry}:5443: {{ca_file: {certificate}}}
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter, and write to what is made in it."""
    path = Path(tempfile.mkdtemp(prefix="charliecloud-"))
    path.chmod(0o755)
    before = os.umask(0)
    yield path
    os.umask(before)
    shutil.rmtree(path)


@pytest.fixture(params=["root", "user"])
def who(request: pytest.FixtureRequest) -> str:
    """Whose daemon it is."""
    return str(request.param)


@pytest.fixture
def image(bed: Testbed) -> str:
    """The test bed's busybox, by its registry's address: this machine does not know the registry's name."""
    return f"multicri/docker-repository.{bed.registry.address}/{bed.registry.busybox.partition('/')[2]}"


@pytest.fixture
def tool(bed: Testbed) -> str:
    return f"multicri/docker-repository.{bed.registry.address}/{bed.registry.tool.partition('/')[2]}"


@pytest.fixture
def endpoints() -> str:
    """No default runtime: every pod is ours."""
    return "{}"


@pytest.fixture
def config() -> str:
    """The proxy's, with names for what each test has of its own."""
    return CONFIG


@pytest.fixture
def kind(who: str) -> Callable[[Path, Path], Proxy]:
    return UserProxy if who == "user" else Proxy


@pytest.fixture
async def proxy(
    bed: Testbed, place: Path, who: str, endpoints: str, config: str, kind: Callable[[Path, Path], Proxy]
) -> AsyncIterator[Proxy]:
    daemon = place / "daemon"
    daemon.mkdir(exist_ok=True)
    certificate = place / "ca.crt"
    images = IMAGES.format(registry=bed.registry.address, certificate=certificate)
    text = config.format(directory=daemon / "charliecloud", endpoints=endpoints, images=images)
    (place / "config.yaml").write_text(text)
    shutil.copy(bed.authority.certificate, certificate)
    certificate.chmod(0o644)
    if who == "user":
        shutil.chown(daemon, "nobody")
    proxy = kind(daemon, place / "config.yaml")
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.fixture
async def kubelet(proxy: Proxy, place: Path) -> AsyncIterator[Kubelet]:
    """Removes every pod that its test has left; then nothing is left on the node."""
    async with Kubelet.of(proxy.socket_path, place / "pods") as kubelet:
        before = {sandbox.id for sandbox in await kubelet.sandboxes()}
        yield kubelet
        for sandbox in await kubelet.sandboxes():
            if sandbox.id not in before:
                await kubelet.remove_sandbox(sandbox.id)
    assert list((proxy.directory / "charliecloud").glob("containers/*")) == []
    async with asyncio.timeout(30):  # what is removed in the background may still go
        while processes_with(str(proxy.directory / "charliecloud")):
            await asyncio.sleep(0.05)
