"""A Slurm job that reaches a server which only the proxy's node reaches."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from kubelet import Kubelet, Proxy, mount
from testbed import Testbed

from main_job.conftest import CONFIG
from main_job.test_exec import IDLE, Container, ready

pytestmark = pytest.mark.testbed

SERVICE, PORT = "198.51.100.7", 8080
SETTINGS = """\
  host_paths_allowed: [{tools}]
  volume_bytes: 60000000
  way_back: [{{to: 198.51.100.0/24, ports: [8080, 8081]}}]
stream_port: 0
"""
WANTED = {"slurm.multicri.io/way-back": "true"}


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """curl, and all that it needs of this machine, in one directory."""
    directory = tmp_path / "tools"
    directory.mkdir()
    program = shutil.which("curl")
    assert program
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=20).stdout
    for path in {program, *(word for word in listed.split() if word.startswith("/"))}:
        shutil.copy(path, directory)
    (loader,) = directory.glob("ld-linux-*")
    (directory / "get").write_text(f'#!/bin/sh\nexec /tools/{loader.name} --library-path /tools /tools/curl "$@"\n')
    (directory / "get").chmod(0o755)
    return directory


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path, tools: Path) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    text = CONFIG.format(containerd=bed.node.socket, known_hosts=bed.cluster.known_hosts)
    config.write_text(text + SETTINGS.format(tools=tools))
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.fixture
def address_of_a_service() -> Iterator[None]:
    """One to which nothing leads but the node itself."""
    subprocess.run(["ip", "address", "add", f"{SERVICE}/32", "dev", "lo"], check=True, timeout=20)
    yield
    subprocess.run(["ip", "address", "delete", f"{SERVICE}/32", "dev", "lo"], check=True, timeout=20)


@pytest.fixture
async def service(address_of_a_service: None) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"served\n" + bytes(2_999_993))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, SERVICE, PORT):
        yield


async def test_a_jobs_curl_reaches_what_is_allowed_and_nothing_else(
    kubelet: Kubelet, proxy: Proxy, image: str, account: Mapping[str, str], tools: Path, service: None
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("main", handler="multicri", annotations=WANTED)
    container_id = await kubelet.create_container(
        pod, image, command=IDLE, env=dict(account), mounts=[mount(tools, "/tools", readonly=True)]
    )
    await kubelet.start(container_id)
    await kubelet.wait_for_log(pod, "begun\n")
    container = await ready(Container(kubelet, pod, container_id))

    async def got(*arguments: str, url: str = f"http://{SERVICE}:{PORT}/") -> tuple[int, bytes]:
        command = ["/tools/get", "-sS", "--max-time", "20", *arguments, url]
        said = await container.sync(*command, timeout_s=60)
        return said.exit_code, said.stdout or said.stderr

    async def until_it_is_open() -> None:
        async with asyncio.timeout(60):
            while (await got())[0]:
                await asyncio.sleep(0.2)

    await until_it_is_open()
    code, page = await got()
    assert (code, page[:7], len(page)) == (0, b"served\n", 3_000_000)
    assert (await got("--noproxy", "*"))[0] != 0
    forbidden = await got(url=f"http://{SERVICE}:9090/")
    assert forbidden[0] == 97  # CURLE_PROXY
    assert b"(2)" in forbidden[1]
    refused = await got(url=f"http://{SERVICE}:8081/")
    assert refused[0] == 97
    assert b"(5)" in refused[1]
    said = await container.sync("sh", "-c", 'echo "$ALL_PROXY"')
    door = said.stdout.decode().strip()
    assert (await got("--proxy", door.replace("multicri:", "multicri:x")))[0] == 97
    assert "way_back allows" in proxy.log.read_text()
    proxy.kill()
    await proxy.start()
    await ready(container)
    await until_it_is_open()
