"""Pulls whose registry takes its time: what is seen of them, and what becomes of one that nobody waits for."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from node_processes import processes_with
from testbed import Testbed

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

PORT = 5446
HELD_AFTER_BYTES = 300_000


class SlowLine:
    """A line to the registry in which nothing comes any more after some bytes, until it is opened."""

    def __init__(self, bed: Testbed) -> None:
        self._address = bed.registry.address
        self.name = f"{self._address}:{PORT}"
        self.held = asyncio.Event()
        self.open = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_registry, to_registry = await asyncio.open_connection(self._address, 443)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._copy(reader, to_registry, slow=False))
            group.create_task(self._copy(from_registry, writer, slow=True))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        copied = 0
        try:
            while piece := await reader.read(4096):
                copied += len(piece)
                if slow and copied > HELD_AFTER_BYTES and not self.open.is_set():
                    self.held.set()
                    await self.open.wait()
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
def who() -> str:
    return "root"


@pytest.fixture
def config(config: str, bed: Testbed, place: Path) -> str:
    return f"{config}    {bed.registry.address}:{PORT}: {{{{ca_file: {place / 'ca.crt'}}}}}\n"


@pytest.fixture
async def line(bed: Testbed) -> AsyncIterator[SlowLine]:
    line = SlowLine(bed)
    async with await asyncio.start_server(line.serve, bed.registry.address, PORT):
        yield line
        line.open.set()


async def command(proxy: Proxy, *words: str) -> asyncio.subprocess.Process:
    admin_socket = proxy.socket_path.with_name("multicri-admin.sock")
    argv = [sys.executable, "-m", "multicri_proxy", "images", *words, "--admin-socket", str(admin_socket)]
    return await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)


async def test_a_pull_that_is_cancelled_leaves_a_build_that_an_admin_sees_and_the_next_pull_joins(
    kubelet: Kubelet, proxy: Proxy, line: SlowLine, image: str, bed: Testbed
) -> None:
    name = image.replace(bed.registry.address, line.name)
    pull = kubelet.channel.unary_unary("/runtime.v1.ImageService/PullImage")(
        cri.PullImageRequest(image=cri.ImageSpec(image=name)).SerializeToString()
    )
    await asyncio.wait_for(line.held.wait(), 60)
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull

    again = await command(proxy, "pull", name)
    assert again.stdout
    assert await again.stdout.readline() == f"asking what {name} means\n".encode()
    while b"%" not in (seen := await again.stdout.readline()):
        assert seen.startswith(b"building in "), seen
    assert b"[#" in seen, "a part of it has come"
    listed = await (await command(proxy)).communicate()
    assert b"0/1, building " in listed[0]

    line.open.set()
    assert (await again.communicate())[0].splitlines()[-1].startswith(f"pulled {name}: sha256:".encode())
    assert proxy.log.read_text().count("building an image on the node") == 1


async def test_a_daemon_that_is_killed_in_the_middle_of_a_pull_leaves_no_half_image(
    kubelet: Kubelet, proxy: Proxy, line: SlowLine, image: str, bed: Testbed
) -> None:
    name, images = image.replace(bed.registry.address, line.name), proxy.directory / "charliecloud/images"
    pull = asyncio.ensure_future(kubelet.pull(name))
    await asyncio.wait_for(line.held.wait(), 60)
    assert [path for path in images.iterdir() if ".building" in path.name]
    proxy.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await pull
    async with asyncio.timeout(60):
        while processes_with(str(images)):
            await asyncio.sleep(0.05)
    line.open.set()
    await proxy.start()
    image_id = await kubelet.pull(name)
    assert [f"sha256:{path.name}" for path in images.iterdir()] == [image_id]
    pod = await kubelet.run_pod_sandbox("after", handler="multicri")
    container = await kubelet.create_container(pod, image_id, command=["true"])
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
