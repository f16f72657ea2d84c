"""Exec and attach over WebSocket, as today's kubectl and the API's libraries speak it."""

import os
from contextlib import suppress

import pytest
from testbed.processes import until_gone

from streaming.conftest import Streaming
from streaming.websocket_client import BINARY, CONTINUATION, PING, TEXT, WebSocket

STDIN, STDOUT, STDERR, ERROR, RESIZE, HALF_CLOSE = 0, 1, 2, 3, 4, 255
SUCCESS = {"metadata": {}, "status": "Success"}
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "v5.base64.channel.k8s.io")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_commands_output_and_errors_come_apart_with_its_exit_status(
    streaming: Streaming, protocol: str
) -> None:
    client = await WebSocket.connect(
        await streaming.exec_url("sh", "-c", "printf out; printf err >&2; exit 3"), protocol
    )
    status = await client.status()
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    assert client.said[STDOUT] == b"out"
    assert client.said[STDERR] == b"err"
    assert client.close_code == 1000
    await client.close()


@pytest.mark.parametrize("protocol", ["", "channel.k8s.io", "base64.channel.k8s.io"])
async def test_older_protocols_have_the_exit_status_as_text(streaming: Streaming, protocol: str) -> None:
    client = await WebSocket.connect(await streaming.exec_url("sh", "-c", "exit 3"), protocol)
    await client.until_closed()
    assert client.said[ERROR] == b"command terminated with non-zero exit code: 3"
    await client.close()


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v5.base64.channel.k8s.io"])
async def test_a_half_close_is_the_end_of_stdin_and_output_still_comes(streaming: Streaming, protocol: str) -> None:
    client = await WebSocket.connect(await streaming.exec_url("sh", "-c", "wc -c; echo after", stdin=True), protocol)
    data = bytes(range(256)) * 1000
    for start in range(0, len(data), 40_000):
        await client.send(STDIN, data[start : start + 40_000])
    if protocol.startswith("v5.base64"):
        await client.frame(TEXT, b"/AA==")
    else:
        await client.frame(BINARY, bytes([HALF_CLOSE, STDIN]))
    assert await client.status() == SUCCESS
    assert client.said[STDOUT] == b"256000\nafter\n"
    await client.close()


async def test_a_message_in_fragments_with_a_ping_between_is_one(streaming: Streaming) -> None:
    client = await WebSocket.connect(await streaming.exec_url("cat", stdin=True), "v5.channel.k8s.io")
    await client.frame(BINARY, b"", fin=False)
    await client.frame(CONTINUATION, bytes([STDIN]) + b"one ", fin=False)
    await client.frame(PING, b"there?")
    await client.frame(CONTINUATION, b"two")
    await client.until_said(STDOUT, b"one two")
    assert client.pongs == [b"there?"]
    await client.frame(BINARY, bytes([HALF_CLOSE, STDIN]))
    assert await client.status() == SUCCESS
    await client.close()


async def test_every_byte_passes_unchanged_in_both_directions(streaming: Streaming) -> None:
    client = await WebSocket.connect(await streaming.exec_url("cat", stdin=True), "v5.channel.k8s.io")
    data = os.urandom(3_000_000)
    await client.send(STDIN, data)
    await client.frame(BINARY, bytes([HALF_CLOSE, STDIN]))
    assert await client.status() == SUCCESS
    assert client.said[STDOUT] == data
    await client.close()


async def test_an_interactive_shell_has_a_terminal_that_follows_the_clients(streaming: Streaming) -> None:
    client = await WebSocket.connect(await streaming.exec_url("sh", stdin=True, tty=True), "v5.channel.k8s.io")
    for size in (b'{"Width": 80, "Height": 24}', b'{"Width": 101, "Height": 37}'):
        await client.send(RESIZE, size)
    await client.send(STDIN, b"until [ \"$(stty size)\" = '37 101' ]; do sleep 0.05; done; echo size $(stty size)\n")
    await client.until_said(STDOUT, b"size 37 101")
    await client.send(STDIN, b"exit 7\n")
    assert (await client.status())["details"]["causes"][0]["message"] == "7"
    await client.close()


@pytest.mark.parametrize(
    "nonsense",
    [b"no JSON", b'{"Width": -1, "Height": 1}', b'{"Width": "a"}', b"[]", b"{" * 5000, b'{"Width":1e9,"Height":2}'],
)
async def test_a_terminals_size_that_is_none_changes_nothing(streaming: Streaming, nonsense: bytes) -> None:
    client = await WebSocket.connect(await streaming.exec_url("sh", stdin=True, tty=True), "v5.channel.k8s.io")
    await client.send(RESIZE, nonsense)
    await client.send(STDIN, b"stty size; exit\n")
    assert await client.status() == SUCCESS
    assert b"0 0" in client.said[STDOUT]
    await client.close()


async def test_a_client_that_disappears_takes_its_process_along(streaming: Streaming) -> None:
    client = await WebSocket.connect(await streaming.exec_url("sh", "-c", "echo $$; sleep 1000"), "v5.channel.k8s.io")
    await client.until_said(STDOUT, b"\n")
    pid = int(client.said[STDOUT])
    await client.close()
    await until_gone(pid)


@pytest.mark.parametrize(
    ("protocol", "opcode", "payload"),
    [
        ("v5.channel.k8s.io", TEXT, b"0text"),
        ("v4.base64.channel.k8s.io", BINARY, b"0YQ=="),
        ("v4.base64.channel.k8s.io", TEXT, b"0no base64"),
        ("v4.base64.channel.k8s.io", TEXT, b"0" * 2_000_000),
        ("v5.channel.k8s.io", 3, b"an unknown opcode"),
    ],
)
async def test_messages_of_another_kind_end_the_connection(
    streaming: Streaming, protocol: str, opcode: int, payload: bytes
) -> None:
    client = await WebSocket.connect(await streaming.exec_url("cat", stdin=True), protocol)
    with suppress(ConnectionError):
        await client.frame(opcode, payload)
    await client.until(lambda: client.gone)
    assert client.close_code in (0, 1002)
    await client.close()


async def test_attach_passes_input_and_output_until_the_process_ends(streaming: Streaming) -> None:
    client = await WebSocket.connect(await streaming.attach_url(), "v5.channel.k8s.io")
    await client.send(STDIN, b"hello\n")
    await client.until_said(STDOUT, b"you said hello\n")
    await client.send(STDIN, b"bye\n")
    assert await client.status() == SUCCESS
    await client.close()
