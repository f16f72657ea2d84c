"""Port-forward over SPDY and over WebSocket, to real ports."""

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from streaming.conftest import Streaming
from streaming.spdy_client import Spdy, Stream
from streaming.websocket_client import BINARY, TEXT, WebSocket

PROTOCOL = "portforward.k8s.io"


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    """A server that says everything back, and ends when its client does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def opened(spdy: Spdy, port: int, request_id: int) -> tuple[Stream, Stream]:
    error = await spdy.open(streamType="error", port=str(port), requestID=str(request_id))
    await spdy.send(error, b"", fin=True)
    return error, await spdy.open(streamType="data", port=str(port), requestID=str(request_id))


async def test_a_thousand_connections_pass_through_one_client(streaming: Streaming, echo_port: int) -> None:
    spdy = await Spdy.connect(await streaming.forward_url(), PROTOCOL)

    async def one(number: int) -> None:
        error, data = await opened(spdy, echo_port, number)
        await spdy.send(data, b"number %d" % number, fin=True)
        await spdy.until(lambda: data.ended and error.ended)
        assert data.data == b"number %d" % number
        assert not error.data

    for hundred in range(10):
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(100 * hundred + number))
    await spdy.close()


async def test_many_megabytes_pass_in_both_directions(streaming: Streaming, echo_port: int) -> None:
    spdy = await Spdy.connect(await streaming.forward_url(echo_port), PROTOCOL)
    _, data = await opened(spdy, echo_port, 0)
    for _ in range(200):
        await spdy.send(data, bytes(100_000))
    await spdy.send(data, b"", fin=True)
    await spdy.until(lambda: data.ended)
    assert data.data == bytes(20_000_000)
    await spdy.close()


async def test_a_port_where_nobody_listens_is_told_on_the_error_stream(streaming: Streaming, echo_port: int) -> None:
    spdy = await Spdy.connect(await streaming.forward_url(), PROTOCOL)
    error, data = await opened(spdy, 1, 0)
    await spdy.until(lambda: error.ended and data.ended)
    assert b"port 1 cannot be reached: nobody listens on 1" in error.data
    _, data = await opened(spdy, echo_port, 1)
    await spdy.send(data, b"still there", fin=True)
    await spdy.until(lambda: data.ended)
    assert data.data == b"still there"
    await spdy.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"streamType": "data", "port": "0", "requestID": "1"},
        {"streamType": "data", "port": "65536", "requestID": "1"},
        {"streamType": "data", "port": "x", "requestID": "1"},
        {"streamType": "data", "requestID": "1"},
        {"streamType": "data", "port": "80"},
        {"streamType": "other", "port": "80", "requestID": "1"},
    ],
)
async def test_a_stream_that_names_no_port_is_reset(streaming: Streaming, headers: dict[str, str]) -> None:
    spdy = await Spdy.connect(await streaming.forward_url(), PROTOCOL)
    stream = await spdy.open(**headers)
    await spdy.until(lambda: stream.reset == 1)
    await spdy.close()


async def test_two_streams_of_the_same_kind_are_no_pair(streaming: Streaming) -> None:
    spdy = await Spdy.connect(await streaming.forward_url(), PROTOCOL)
    streams = [await spdy.open(streamType="data", port="80", requestID="1") for _ in range(2)]
    await spdy.until(lambda: all(stream.reset == 1 for stream in streams))
    await spdy.close()


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"])
async def test_over_websocket_two_channels_stand_for_each_named_port(
    streaming: Streaming, echo_port: int, protocol: str
) -> None:
    client = await WebSocket.connect(await streaming.forward_url(echo_port, 1), protocol)
    await client.send(0, b"hello")
    await client.until_said(0, struct.pack("<H", echo_port) + b"hello")
    assert client.said[1] == struct.pack("<H", echo_port)
    await client.until_said(3, b"port 1 cannot be reached")
    assert client.said[2] == struct.pack("<H", 1)
    await client.close()


@pytest.mark.parametrize(
    ("opcode", "payload"), [(TEXT, b"text"), (BINARY, b"no SPDY at all"), (3, b"an unknown opcode")]
)
async def test_what_is_no_spdy_in_a_tunnel_ends_the_connection(
    streaming: Streaming, opcode: int, payload: bytes
) -> None:
    client = await WebSocket.connect(await streaming.forward_url(), "SPDY/3.1+portforward.k8s.io")
    await client.frame(opcode, bytes([0x80, 2]) + payload)
    await client.until(lambda: client.gone)
    await client.close()
