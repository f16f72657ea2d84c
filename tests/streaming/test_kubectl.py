"""The real kubectl, where there is one, over both transports."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from testbed.processes import until_gone

from streaming.api_server import api_server
from streaming.conftest import Streaming

KUBECTL = shutil.which("kubectl")
pytestmark = [
    pytest.mark.skipif(KUBECTL is None, reason="no kubectl here"),
    pytest.mark.parametrize("websockets", ["true", "false"]),
]


class Kubectl:
    def __init__(self, server: str, home: Path, websockets: str) -> None:
        assert KUBECTL
        self._argv = (KUBECTL, f"--server={server}", f"--cache-dir={home}")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": websockets,
            "KUBECTL_PORT_FORWARD_WEBSOCKETS": websockets,
        }

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *self._argv, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment
        )

    async def run(self, *arguments: str, stdin: bytes = b"") -> tuple[int | None, bytes, bytes]:
        process = await self.start(*arguments)
        stdout, stderr = await process.communicate(stdin)
        return process.returncode, stdout, stderr


@pytest.fixture
async def kubectl(streaming: Streaming, tmp_path: Path, websockets: str) -> AsyncIterator[Kubectl]:
    async with api_server(streaming) as url:
        yield Kubectl(url, tmp_path, websockets)


async def test_exec_has_its_output_its_errors_and_its_exit_status(kubectl: Kubectl) -> None:
    code, stdout, stderr = await kubectl.run("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (code, stdout) == (3, b"out\n")
    assert stderr.startswith(b"err\n")
    assert b"exit code 3" in stderr


async def test_exec_passes_megabytes_through_unchanged_and_ends_with_stdin(kubectl: Kubectl) -> None:
    data = os.urandom(1 << 20) * 8
    code, stdout, stderr = await kubectl.run("exec", "-i", "web", "--", "cat", stdin=data)
    assert (code, stderr) == (0, b"")
    assert hashlib.sha256(stdout).digest() == hashlib.sha256(data).digest()


async def test_exec_that_is_killed_takes_its_process_along(kubectl: Kubectl, streaming: Streaming) -> None:
    process = await kubectl.start("exec", "web", "--", "sh", "-c", "echo up; sleep 1000")
    assert process.stdout
    assert await process.stdout.readline() == b"up\n"
    process.kill()
    await process.communicate()
    await until_gone(streaming.adapter.pids[-1])


async def test_attach_passes_input_and_output(kubectl: Kubectl) -> None:
    process = await kubectl.start("attach", "-i", "web")
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"hello\n")
    assert await process.stdout.readline() == b"you said hello\n"
    process.stdin.write(b"bye\n")
    await process.communicate()
    assert process.returncode == 0


async def test_port_forward_reaches_a_port(kubectl: Kubectl, streaming: Streaming, websockets: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"you said " + await reader.readexactly(5))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        process = await kubectl.start("port-forward", "pod/web", f":{server.sockets[0].getsockname()[1]}")
        assert process.stdout
        line = (await process.stdout.readline()).decode()
        assert line.startswith("Forwarding from 127.0.0.1:"), (line, await process.communicate())
        port = int(line.split()[2].rpartition(":")[2])
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            assert await reader.read() == b"you said hello"
            writer.close()
        with suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()
    (upgrade,) = streaming.upgrades
    assert (b"SPDY/3.1+portforward.k8s.io" in upgrade) is (websockets == "true")
