"""``multicri-proxy dump`` attached to a running daemon."""

import argparse
import asyncio
import base64
import json
import os
import signal
import socket
import sys
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
import yaml

from dump.conftest import Daemon
from dump.doubles import RUNTIME, ScriptedRuntime
from multicri_proxy.admin import AdminServer
from multicri_proxy.calls import Call
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.attach import dump_command
from multicri_proxy.dump.commands import add_commands
from multicri_proxy.dump.dumper import Dumper
from multicri_proxy.dump.redact import DEFAULT_NAMES
from multicri_proxy.dump.tap import Tap

VERSION_REPLY = cri.VersionResponse(runtime_name="containerd").SerializeToString()


PROGRAM = """\
import argparse, sys
from multicri_proxy.dump.commands import add_commands
parser = argparse.ArgumentParser()
add_commands(parser.add_subparsers())
arguments = parser.parse_args()
sys.exit(arguments.run(arguments))
"""


def run(*argv: str) -> int:
    """The command line, as the program's own has it."""
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status


class Client:
    """A client of the admin socket that reads as its test likes."""

    def __init__(self, daemon: Daemon, **request: object) -> None:
        self._daemon = daemon
        self._request = {"command": "dump", "rules": "full:.*"} | request

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_unix_connection(self._daemon.admin_socket)
        self.writer.write(json.dumps(self._request).encode() + b"\n")
        self.head = json.loads(await self.reader.readline())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def record(self) -> dict[str, object]:
        async with asyncio.timeout(60):
            found: dict[str, object] = json.loads(await self.reader.readline())
        return found


async def attached(dumper: Dumper) -> None:
    async with asyncio.timeout(60):
        while not dumper.listeners:
            await asyncio.sleep(0.01)


async def left(dumper: Dumper) -> None:
    async with asyncio.timeout(60):
        while dumper.listeners:
            await asyncio.sleep(0.01)


class Shown:
    """What the command prints, as a program of its own that would go on for minutes."""

    def __init__(self, daemon: Daemon, *argv: str) -> None:
        self._argv = ("dump", "--seconds", "600", "--admin-socket", str(daemon.admin_socket), *argv)
        self._daemon = daemon

    async def __aenter__(self) -> "Shown":
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, *self._argv), stdout=asyncio.subprocess.PIPE
        )
        await attached(self._daemon.dumper)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            await self._process.communicate()
        assert self._process.returncode == 0

    async def until(self, last: str) -> list[str]:
        """The lines up to one that has this in it."""
        assert self._process.stdout
        lines: list[str] = []
        async with asyncio.timeout(60):
            while not lines or last not in lines[-1]:
                lines.append((await self._process.stdout.readline()).decode())
        return lines


async def test_the_command_shows_calls_while_it_is_attached(daemon: Daemon) -> None:
    daemon.backend.answers(f"{RUNTIME}Version", VERSION_REPLY)
    async with Shown(daemon, "--method", "full:.*") as shown:
        assert await daemon.call("Version") == VERSION_REPLY
        (seen,) = yaml.safe_load_all("".join(await shown.until("runtime_name")))
    assert (seen["method"], seen["owner"], seen["code"]) == ("Version", "default", "OK")
    assert seen["reply"] == {"runtime_name": "containerd"}
    await left(daemon.dumper)
    async with asyncio.timeout(60):
        while any(thread.name.startswith("dump") for thread in threading.enumerate()):
            await asyncio.sleep(0.01)


async def test_the_command_ends_when_its_time_is_over(daemon: Daemon) -> None:
    argv = ("dump", "--seconds", "0.1", "--admin-socket", str(daemon.admin_socket))
    assert await asyncio.to_thread(run, *argv) == 0
    await left(daemon.dumper)


async def test_the_command_shows_one_line_a_call_unless_asked_for_more(daemon: Daemon) -> None:
    daemon.backend.answers(f"{RUNTIME}Version", VERSION_REPLY)
    async with Shown(daemon) as shown:
        await daemon.call("Version")
        with pytest.raises(grpc.aio.AioRpcError):
            await daemon.call("Status")
        lines = await shown.until("UNIMPLEMENTED")
    assert [yaml.safe_load(line)["code"] for line in lines] == ["OK", "UNIMPLEMENTED"]


async def test_json_from_the_command_is_what_a_file_would_have(daemon: Daemon) -> None:
    daemon.backend.answers(f"{RUNTIME}Version", VERSION_REPLY)
    async with Shown(daemon, "--format", "json", "--method", "full:.*") as shown:
        await daemon.call("Version")
        [line] = await shown.until("runtime_name")
    assert json.loads(line)["reply"] == {"runtime_name": "containerd"}


async def test_following_survives_the_daemons_restart_and_ends_when_interrupted(tmp_path: Path) -> None:
    runtime, admin_socket, out = ScriptedRuntime(), tmp_path / "admin.sock", tmp_path / "out"
    runtime.answer(f"{RUNTIME}Version")
    process = None
    for starts in (1, 2):
        dumper = Dumper()
        async with AdminServer(admin_socket, {"dump": dump_command(dumper, runtime, lambda: DEFAULT_NAMES)}):
            if process is None:
                with out.open("wb") as file:
                    process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-c", PROGRAM, "dump", "--follow", "--admin-socket", str(admin_socket)),
                        stdout=file,
                        stderr=file,
                    )
            await attached(dumper)
            await Tap(runtime, dumper).call(Call(path=f"{RUNTIME}Version", request=b""))
            async with asyncio.timeout(60):
                while out.read_text().count("method: Version") < starts:
                    await asyncio.sleep(0.02)
            if starts == 2:
                process.send_signal(signal.SIGINT)
                assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_pods_and_containers_are_known_from_the_first_call_on(daemon: Daemon) -> None:
    metadata = cri.PodSandboxMetadata(name="web", namespace="default")
    daemon.backend.answers(
        f"{RUNTIME}ListPodSandbox",
        cri.ListPodSandboxResponse(items=[cri.PodSandbox(id="5a5a", metadata=metadata)]).SerializeToString(),
    )
    containers = [
        cri.Container(id=f"c{number}", pod_sandbox_id="5a5a", metadata=cri.ContainerMetadata(name=name))
        for number, name in enumerate(("app", "sidecar"))
    ]
    daemon.backend.answers(
        f"{RUNTIME}ListContainers", cri.ListContainersResponse(containers=containers).SerializeToString()
    )
    daemon.backend.answers(f"{RUNTIME}StartContainer", b"")
    async with Client(daemon, pods=["web"], containers=["sidecar"]) as client:
        for container_id in ("c0", "other", "c1"):
            await daemon.call(
                "StartContainer", cri.StartContainerRequest(container_id=container_id).SerializeToString()
            )
        record = await client.record()
    assert (record["pod"], record["container"]) == ("default/web", "sidecar")


async def test_secrets_are_shown_only_to_who_asks_for_them(daemon: Daemon) -> None:
    daemon.backend.answers("/runtime.v1.ImageService/PullImage", b"")
    request = cri.PullImageRequest(auth=cri.AuthConfig(password="open sesame")).SerializeToString()
    async with Client(daemon) as cautious, Client(daemon, redact=False) as curious:
        await daemon.call("/runtime.v1.ImageService/PullImage", request)
        hidden, shown = await cautious.record(), await curious.record()
    assert base64.b64decode(str(shown["request_base64"])) == request
    assert b"sesame" not in base64.b64decode(str(hidden["request_base64"]))


@pytest.mark.parametrize(
    ("request_fields", "error"),
    [
        ({"rules": "loud:.*"}, "'loud' is no level"),
        ({"rules": 1}, "dump: rules: Input should be a valid string"),
        ({"pods": "web"}, "dump: pods: Input should be a valid list"),
        ({"what": "else"}, "dump: what: Extra inputs are not permitted"),
    ],
)
async def test_a_request_that_is_wrong_is_refused(
    daemon: Daemon, request_fields: dict[str, object], error: str
) -> None:
    async with Client(daemon, **request_fields) as client:
        assert error in client.head["error"]


async def test_the_ninth_client_is_refused(daemon: Daemon) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(Client(daemon))
        ninth = await stack.enter_async_context(Client(daemon))
    assert ninth.head == {"error": "8 dumps are going on already"}
    await left(daemon.dumper)


async def test_a_client_that_stops_reading_loses_records_and_delays_no_call(daemon: Daemon) -> None:
    large = cri.VersionResponse(runtime_name="x" * 500_000).SerializeToString()
    daemon.backend.answers(f"{RUNTIME}Version", large)
    with socket.socket(socket.AF_UNIX) as asleep:
        await asyncio.to_thread(asleep.connect, str(daemon.admin_socket))
        asleep.sendall(b'{"command": "dump", "rules": "full:.*"}\n')
        await attached(daemon.dumper)
        async with asyncio.timeout(60):
            while not daemon.dumper.dropped:
                await daemon.call("Version")
    await left(daemon.dumper)
    assert await daemon.call("Version") == large


async def test_no_daemon_no_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(run, "dump", "--admin-socket", str(tmp_path / "nowhere")) == 1
    assert "no multicri-proxy answers on" in capsys.readouterr().err


async def test_a_reader_that_has_seen_enough_ends_the_command_quietly(daemon: Daemon) -> None:
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "dump", "--follow", "--admin-socket", str(daemon.admin_socket)),
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writer)
    await attached(daemon.dumper)
    os.close(reader)
    daemon.backend.answers(f"{RUNTIME}Version", VERSION_REPLY)
    await daemon.call("Version")
    _, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, complaints) == (0, b"")
