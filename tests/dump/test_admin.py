"""The admin socket's protocol, and clients that do not keep to it."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from multicri_proxy.admin import AdminServer, Connection, ask
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, Unavailable

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def greet(request: Mapping[str, Any], client: Connection) -> None:
    if "who" not in request:
        raise InvalidArgument("greet: who?")
    client.accept()
    descriptor = client.descriptor()
    os.write(descriptor, f"hello {request['who']}\nand bye\n".encode())
    os.close(descriptor)
    if request.get("stay"):
        await client.until_left()


async def broken(request: Mapping[str, Any], client: Connection) -> None:
    raise ValueError("a defect")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "admin.sock"


@pytest.fixture
async def server(path: Path) -> AsyncIterator[AdminServer]:
    async with AdminServer(path, {"greet": greet, "broken": broken}) as server:
        yield server


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def told(path: Path, text: bytes) -> list[bytes]:
    async with connected(path) as (reader, writer), asyncio.timeout(60):
        writer.write(text)
        return (await reader.read()).splitlines()


async def test_the_socket_is_for_its_owner_alone_and_is_gone_afterwards(path: Path) -> None:
    async with AdminServer(path, {}):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_command_answers_in_lines(server: AdminServer, path: Path) -> None:
    lines = await told(path, b'{"command": "greet", "who": "you"}\n')
    assert lines == [b'{"ok": true}', b"hello you", b"and bye"]


async def test_the_client_function_yields_the_same_lines(server: AdminServer, path: Path) -> None:
    request = {"command": "greet", "who": "you"}
    assert await asyncio.to_thread(lambda: list(ask(path, request))) == [b"", b"hello you", b"and bye"]
    patient = await asyncio.to_thread(lambda: list(ask(path, request | {"stay": True}, for_s=0.2)))
    assert patient == [b"", b"hello you", b"and bye"]


@pytest.mark.parametrize(
    ("request_line", "error"),
    [
        (b'{"command": "greet"}\n', "greet: who?"),
        (b'{"command": "dance"}\n', "'dance' is no admin command; there are: broken, greet"),
        (b'{"command": ["greet"]}\n', "['greet'] is no admin command; there are: broken, greet"),
        (b"[]\n", "the request is no JSON object"),
        (b"hello\n", "the request is no line of JSON below 65536 bytes"),
        (b"\xff\n", "the request is no line of JSON below 65536 bytes"),
        (b"[" * 60_000 + b"\n", "the request is no line of JSON below 65536 bytes"),
        (b"x" * 200_000, "the request is no line of JSON below 65536 bytes"),
    ],
)
async def test_a_request_that_is_wrong_is_told_why(
    server: AdminServer, path: Path, request_line: bytes, error: str
) -> None:
    try:
        assert [json.loads(line) for line in await told(path, request_line)] == [{"error": error}]
    except ConnectionResetError:
        assert len(request_line) > 65536  # the rest of it was never read


async def test_the_client_function_tells_what_is_wrong(server: AdminServer, path: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"greet: who\?"):
        await asyncio.to_thread(lambda: list(ask(path, {"command": "greet"})))
    with pytest.raises(InvalidArgument, match="closed the connection"):
        await asyncio.to_thread(lambda: list(ask(path, {"command": "broken"})))
    with pytest.raises(Unavailable, match="no multicri-proxy answers on"):
        await asyncio.to_thread(lambda: list(ask(tmp_path / "nowhere", {"command": "greet"})))


async def test_a_client_that_says_nothing_is_sent_away(server: AdminServer, path: Path) -> None:
    (line,) = await told(path, b"")
    assert b"no request came within 5 s" in line


async def test_clients_that_leave_at_once_are_no_trouble(server: AdminServer, path: Path) -> None:
    for text in (b"", b"{", b'{"command": "greet", "who": "you", "stay": true}\n'):
        async with connected(path) as (_, writer):
            writer.write(text)
    assert len(await told(path, b'{"command": "greet", "who": "you"}\n')) == 3


async def test_the_seventeenth_client_is_refused(server: AdminServer, path: Path) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(16):
            await stack.enter_async_context(connected(path))
        (line,) = await told(path, b'{"command": "greet", "who": "you"}\n')
    assert b"16 admin clients are connected already" in line


async def test_clients_are_let_go_when_the_server_stops(path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with AdminServer(path, {"greet": greet}):
            reader, writer = await stack.enter_async_context(connected(path))
            writer.write(b'{"command": "greet", "who": "you", "stay": true}\n')
            assert await reader.readline() == b'{"ok": true}\n'
        assert (await asyncio.wait_for(reader.read(), 60)).endswith(b"and bye\n")


async def test_a_stale_socket_is_replaced_and_one_that_is_served_is_not(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with AdminServer(path, {"greet": greet}):
        with pytest.raises(FailedPrecondition, match="another process serves"):
            async with AdminServer(path, {}):
                pass
        assert len(await told(path, b'{"command": "greet", "who": "you"}\n')) == 3


async def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(FailedPrecondition, match="is no socket"):
        async with AdminServer(path, {}):
            pass
    path.unlink()
    path.symlink_to(path.parent / "nowhere")
    with pytest.raises(FailedPrecondition, match="is no socket"):
        async with AdminServer(path, {}):
            pass


async def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="too long"):
        async with AdminServer(tmp_path / ("x" * 108), {}):
            pass
