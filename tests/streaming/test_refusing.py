"""Whoever has no right to a stream, or does not speak as it is due, is refused, and nothing is left of it."""

import asyncio
import os
import re
import socket
import struct
import zlib
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from runtime.doubles import Node

from multicri_proxy.api.errors import ResourceExhausted, Unavailable
from multicri_proxy.api.streams import Streams
from multicri_proxy.streaming.requests import RemoteCommand
from multicri_proxy.streaming.server import Limits, StreamingServer, Tls
from multicri_proxy.streaming.spdy import DICTIONARY
from multicri_proxy.streaming.tokens import Tokens
from streaming.conftest import Streaming
from streaming.spdy_client import Exec, Spdy, upgraded
from streaming.websocket_client import WebSocket

SPDY = ("Upgrade: SPDY/3.1", "Content-Length: 0", "X-Stream-Protocol-Version: v4.channel.k8s.io")


async def answer(url: str, headers: tuple[str, ...] = SPDY, method: str = "POST") -> tuple[int, str]:
    """The status and the text of a refusal."""
    status, _, reader, writer = await upgraded(url, headers, method)
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return status, text


async def sent(url: str, data: bytes) -> bytes:
    """Everything that comes back for these bytes, until the server leaves."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(data)
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_url_serves_once(streaming: Streaming) -> None:
    url = await streaming.exec_url("true")
    client = await Exec.start(url, "stdout", "stderr")
    assert (await client.status())["status"] == "Success"
    await client.close()
    assert (await answer(url))[0] == 404


async def test_a_token_is_for_what_it_was_given(streaming: Streaming) -> None:
    url = await streaming.exec_url("true")
    assert (await answer(url.replace("/exec/", "/attach/")))[0] == 404
    assert (await answer(url))[0] == 404


@pytest.mark.parametrize(
    "path", ["/", "/exec", "/exec/", "/exec/guess", "/exec/%00", "/exec//x", "/exec/../etc", "/metrics"]
)
async def test_a_path_that_was_not_given_is_not_found(streaming: Streaming, path: str) -> None:
    url = await streaming.exec_url("true")
    parts = urlsplit(url)
    assert (await answer(f"{parts.scheme}://{parts.netloc}{path}"))[0] == 404
    assert not streaming.adapter.pids


async def test_a_token_has_256_bits_and_no_two_are_alike(streaming: Streaming) -> None:
    tokens = {(await streaming.exec_url("true")).rpartition("/")[2] for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch("[A-Za-z0-9_-]{43}", token) for token in tokens)


def test_a_token_is_too_old_after_a_minute_and_makes_room() -> None:
    now_s = [0.0]
    tokens = Tokens[int](lambda: now_s[0])
    given = [tokens.give(number) for number in range(1000)]
    with pytest.raises(ResourceExhausted, match="1000 streams were asked for within 60 s"):
        tokens.give(1000)
    now_s[0] = 59.0
    assert tokens.take(given[0]) == 0
    assert tokens.take(given[0]) is None
    now_s[0] = 61.0
    assert tokens.take(given[1]) is None
    assert tokens.take(tokens.give(5)) == 5


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ((), "POST", 400),
        (("Upgrade: h2c",), "POST", 400),
        (SPDY, "PUT", 405),
        (("Upgrade: websocket", "Sec-WebSocket-Version: 13"), "GET", 400),
        (("Upgrade: websocket", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: a"), "GET", 426),
        (("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: a"), "POST", 400),
        (("Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v9.channel.k8s.io"), "POST", 403),
        (("Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: portforward.k8s.io"), "POST", 403),
    ],
)
async def test_a_request_that_is_no_upgrade_is_refused(
    streaming: Streaming, headers: tuple[str, ...], method: str, status: int
) -> None:
    url = await streaming.exec_url("true")
    assert (await answer(url, headers, method))[0] == status
    assert not streaming.adapter.pids


async def test_a_body_is_refused(streaming: Streaming) -> None:
    url = await streaming.exec_url("true")
    head = [f"POST {urlsplit(url).path} HTTP/1.1", "Host: a", "Connection: Upgrade", *SPDY[::2], "Content-Length: 1025"]
    data = "\r\n".join([*head, "", ""]).encode() + bytes(1025)
    assert (await sent(url, data)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00" * 50, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9999]
)
async def test_what_is_no_http_is_refused(streaming: Streaming, data: bytes) -> None:
    answered = await sent(await streaming.exec_url("true"), data)
    assert not answered or answered.startswith(b"HTTP/1.1 4")  # what we did not read may cost the client our answer
    assert not streaming.adapter.pids


class TestSlowly:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(request_s=0.2, creation_s=0.2, idle_s=0.4, linger_s=0.2)

    async def test_a_request_that_does_not_come_is_not_waited_for(self, streaming: Streaming) -> None:
        assert await sent(await streaming.exec_url("true"), b"POST /exec/") == b""

    async def test_a_request_that_comes_byte_by_byte_is_not_waited_for(self, streaming: Streaming) -> None:
        parts = urlsplit(await streaming.exec_url("true"))
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        ended = asyncio.create_task(reader.read())
        with suppress(ConnectionError):
            writer.write(b"POST /exec/x HTTP/1.1\r\nX: ")
            while not ended.done():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        with suppress(ConnectionError):
            assert await ended == b""
        writer.close()

    async def test_streams_that_are_not_opened_are_not_waited_for(self, streaming: Streaming) -> None:
        spdy = await Spdy.connect(await streaming.exec_url("true"), "v4.channel.k8s.io")
        await spdy.open(streamType="error")
        await spdy.until(lambda: spdy.gone)
        assert not streaming.adapter.pids
        await spdy.close()

    async def test_half_a_pair_of_a_port_forward_is_reset(self, streaming: Streaming) -> None:
        spdy = await Spdy.connect(await streaming.forward_url(), "portforward.k8s.io")
        stream = await spdy.open(streamType="data", port="80", requestID="1")
        await spdy.until(lambda: stream.reset == 5)
        await spdy.close()

    async def test_a_connection_that_is_idle_ends_with_its_process(self, streaming: Streaming) -> None:
        client = await Exec.start(await streaming.exec_url("cat", stdin=True), "stdin", "stdout", "stderr")
        await client.spdy.until(lambda: client.spdy.gone)
        (pid,) = streaming.adapter.pids
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        await client.close()

    async def test_a_slow_reader_gets_the_last_byte_all_the_same(self, streaming: Streaming) -> None:
        """The time for leaving counts from when everything is sent."""
        client = await Exec.start(await streaming.exec_url("head", "-c", "3000000", "/dev/zero"), "stdout", "stderr")
        stdout, status = client.streams["stdout"], asyncio.ensure_future(client.status())
        while not status.done():
            client.spdy.paused.clear()
            await asyncio.sleep(0.03)
            client.spdy.paused.set()
            await asyncio.sleep(0.001)
        assert (await status)["status"] == "Success"
        assert stdout.length == 3_000_000
        await client.close()


class TestWithTwoConnections:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(connections=2)

    async def test_a_third_is_closed_at_once_and_room_is_made_by_one_that_leaves(self, streaming: Streaming) -> None:
        clients = [
            await Exec.start(await streaming.exec_url("cat", stdin=True), "stdin", "stdout", "stderr") for _ in range(2)
        ]
        url = await streaming.exec_url("true")
        assert await sent(url, b"") == b""
        await clients[0].type(b"", fin=True)
        await clients[0].status()
        await clients[0].close()
        while True:
            try:
                client = await Exec.start(url, "stdout", "stderr")
                break
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.01)
        assert (await client.status())["status"] == "Success"
        await client.close()
        await clients[1].close()


def zip_bomb() -> bytes:
    """A SYN_STREAM of 2 kB whose one header has 2 MB."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    block = struct.pack(">II", 1, 1) + b"a" + struct.pack(">I", 2_000_000) + bytes(2_000_000)
    payload = struct.pack(">IIH", 9, 0, 0) + compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert len(payload) < 4_000
    return struct.pack(">HHI", 0x8003, 1, len(payload)) + payload


@pytest.mark.parametrize(
    "data",
    [
        zip_bomb(),
        struct.pack(">HHI", 0x8003, 1, 0xFFFFFF),
        struct.pack(">HHI", 0x8002, 6, 4) + bytes(4),
        struct.pack(">II", 9, 1 << 24),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_frames_that_are_none_end_the_connection(streaming: Streaming, data: bytes) -> None:
    client = await Exec.start(await streaming.exec_url("cat", stdin=True), "stdin", "stdout", "stderr")
    client.spdy.writer.write(data)
    await client.spdy.until(lambda: client.spdy.gone)
    assert client.spdy.went_away
    await client.close()


async def test_more_streams_than_were_asked_for_are_refused(streaming: Streaming) -> None:
    client = await Exec.start(await streaming.exec_url("cat", stdin=True), "stdin", "stdout", "stderr")
    stream = await client.spdy.open(streamType="stdin")
    assert stream.reset == 3
    await client.type(b"", fin=True)
    assert (await client.status())["status"] == "Success"
    await client.close()


async def test_a_stream_of_another_type_ends_the_connection(streaming: Streaming) -> None:
    spdy = await Spdy.connect(await streaming.exec_url("true"), "v4.channel.k8s.io")
    await spdy.open(streamType="stdin")
    await spdy.until(lambda: spdy.gone)
    await spdy.close()


async def test_refusals_are_logged_but_not_as_often_as_somebody_likes(
    streaming: Streaming, caplog: pytest.LogCaptureFixture
) -> None:
    url = await streaming.exec_url("true")
    parts = urlsplit(url)
    for _ in range(50):
        await answer(f"{parts.scheme}://{parts.netloc}/exec/guess")
    lines = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
    assert len(lines) == 10
    assert all(parts.path.rpartition("/")[2] not in line for line in lines)


async def test_nothing_listens_until_it_is_needed_nor_after(tmp_path_factory: pytest.TempPathFactory) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with StreamingServer(port=port) as server:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        url = await server.url(command())
        assert url.startswith(f"http://127.0.0.1:{port}/exec/")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        async with StreamingServer(port=port) as other:
            with pytest.raises(Unavailable, match="set stream_addr and stream_port"):
                await other.url(command())
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize(
    ("address", "host"),
    [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("127.0.0.2", "127.0.0.2")],  # noqa: S104
)
async def test_the_url_names_an_address_that_the_node_can_reach(address: str, host: str) -> None:
    async with StreamingServer(address=address, port=0) as server:
        assert (await server.url(command())).startswith(f"http://{host}:")


def command() -> RemoteCommand:
    async def run(streams: Streams) -> int:
        raise AssertionError

    return RemoteCommand(what="exec", stdin=False, stdout=True, stderr=False, tty=False, run=run)


async def test_nothing_is_left_of_clients_that_disappeared(streaming: Streaming) -> None:
    def tasks() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks() if "stream client" in task.get_name()}

    for _ in range(20):
        spdy = await Spdy.connect(await streaming.exec_url("cat", stdin=True), "v4.channel.k8s.io")
        await spdy.open(streamType="error")
        await spdy.close()
        websocket = await WebSocket.connect(await streaming.exec_url("cat", stdin=True), "v5.channel.k8s.io")
        await websocket.close()
        forward = await Spdy.connect(await streaming.forward_url(), "portforward.k8s.io")
        await forward.open(streamType="data", port="80", requestID="1")
        await forward.close()
    while tasks():
        await asyncio.sleep(0.01)
    for pid in streaming.adapter.pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class TestWithTls:
    @pytest.fixture
    def streaming_node(self, streaming_node: Node) -> Node:
        streaming_node.tls = Tls()
        return streaming_node

    async def test_both_transports_work(self, streaming: Streaming) -> None:
        url = await streaming.exec_url("cat", stdin=True)
        assert url.startswith("https://")
        client = await Exec.start(url, "stdin", "stdout", "stderr")
        await client.type(bytes(2_000_000), fin=True)
        assert (await client.status())["status"] == "Success"
        assert client.streams["stdout"].data == bytes(2_000_000)
        await client.close()
        websocket = await WebSocket.connect(await streaming.exec_url("echo", "hello"), "v5.channel.k8s.io")
        assert (await websocket.status())["status"] == "Success"
        assert websocket.said[1] == b"hello\n"
        await websocket.close()

    async def test_who_does_not_speak_tls_gets_nothing(self, streaming: Streaming) -> None:
        assert await sent(await streaming.exec_url("true"), b"POST /exec HTTP/1.1\r\n\r\n") == b""
