"""Exec over SPDY, as kubelet, crictl and older kubectl speak it, with real processes."""

import asyncio
import hashlib
import os
import resource
import struct

import pytest
from testbed.processes import lives, until_gone

from streaming.conftest import Streaming
from streaming.spdy_client import RST_STREAM, SETTINGS, WINDOW_UPDATE, Exec, Spdy

SUCCESS = {"metadata": {}, "status": "Success"}
MIB = 1024 * 1024
TERMINAL = ("stdin", "stdout", "resize")


async def test_a_commands_output_and_errors_come_apart_with_its_exit_status(streaming: Streaming) -> None:
    command = "printf out; printf err >&2; exit 3"
    client = await Exec.start(await streaming.exec_url("sh", "-c", command), "stdout", "stderr")
    status = await client.status()
    assert status["status"] == "Failure"
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    assert client.streams["stdout"].data == b"out"
    assert client.streams["stderr"].data == b"err"
    assert client.streams["stdout"].ended
    assert client.streams["stderr"].ended
    await client.spdy.until(lambda: client.spdy.went_away)
    await client.close()


async def test_a_signal_is_128_and_its_number(streaming: Streaming) -> None:
    client = await Exec.start(await streaming.exec_url("sh", "-c", "kill -9 $$"), "stdout", "stderr")
    assert (await client.status())["details"]["causes"] == [{"reason": "ExitCode", "message": "137"}]
    await client.close()


async def test_the_end_of_stdin_is_the_end_for_the_process_and_its_output_still_comes(streaming: Streaming) -> None:
    url = await streaming.exec_url("sh", "-c", "cat; echo after the end", stdin=True)
    client = await Exec.start(url, "stdin", "stdout", "stderr")
    await client.type(b"first ")
    await client.until_said(b"first ")
    await client.type(b"last ", fin=True)
    assert await client.status() == SUCCESS
    assert client.streams["stdout"].data == b"first last after the end\n"
    await client.close()


async def test_every_byte_passes_unchanged_in_both_directions(streaming: Streaming) -> None:
    data = bytes(range(256)) * 5000
    client = await Exec.start(await streaming.exec_url("cat", stdin=True), "stdin", "stdout", "stderr")
    await client.type(data, fin=True)
    assert await client.status() == SUCCESS
    assert client.streams["stdout"].data == data
    await client.close()


async def test_an_interactive_shell_has_a_terminal_that_follows_the_clients(streaming: Streaming) -> None:
    script = (
        "trap 'size=$(stty size); echo size $size' WINCH; tty; "
        "until [ \"$size\" = '24 80' ]; do sleep 0.05; done; exec sh"
    )
    client = await Exec.start(await streaming.exec_url("sh", "-c", script, stdin=True, tty=True), *TERMINAL)
    await client.until_said(b"/dev/pts/")
    for columns, rows in ((101, 37), (80, 24)):
        await client.resize(columns, rows)
        await client.until_said(b"size %d %d" % (rows, columns))
    await client.type(b'sh -c \'trap "echo inter""rupted; exit" INT; echo wai""ting; while :; do sleep 0.05; done\'\n')
    await client.until_said(b"waiting")
    await client.type(b"\x03")
    await client.until_said(b"interrupted")
    await client.type(b"exit 7\n")
    assert (await client.status())["details"]["causes"][0]["message"] == "7"
    await client.close()


@pytest.mark.parametrize("protocol", ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io", ""])
async def test_older_protocols_have_the_exit_status_as_text(streaming: Streaming, protocol: str) -> None:
    if protocol == "channel.k8s.io":
        protocol = "v1.channel.k8s.io"
    client = await Exec.start(await streaming.exec_url("sh", "-c", "exit 3"), "stdout", "stderr", protocol=protocol)
    assert await client.raw_status() == b"command terminated with non-zero exit code: 3"
    await client.close()
    client = await Exec.start(await streaming.exec_url("true"), "stdout", "stderr", protocol=protocol)
    assert await client.raw_status() == b""
    await client.close()


async def test_what_the_adapter_cannot_do_is_told(streaming: Streaming) -> None:
    url = await streaming.exec_url("true")
    await streaming.client.stop(streaming.container_id)
    client = await Exec.start(url, "stdout", "stderr")
    status = await client.status()
    assert status["reason"] == "InternalError"
    assert "is exited, not running" in status["message"]
    await client.close()


async def test_a_client_that_disappears_takes_its_process_along(streaming: Streaming) -> None:
    client = await Exec.start(await streaming.exec_url("sh", "-c", "echo $$; sleep 1000"), "stdout", "stderr")
    await client.until_said(b"\n")
    pid = int(client.streams["stdout"].data)
    assert lives(pid)
    await client.close()
    await until_gone(pid)


async def test_a_quarter_of_a_gibibyte_comes_whole_and_is_not_kept(streaming: Streaming) -> None:
    size = 256 * MIB
    program = "import sys\nb=bytes(range(256))*4096\nfor _ in range(256): sys.stdout.buffer.write(b)"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    client = await Exec.start(await streaming.exec_url("python3", "-c", program), "stdout", "stderr")
    digest = hashlib.sha256()
    stdout = client.streams["stdout"]
    digest.update(stdout.data)
    stdout.data.clear()
    client.spdy.on_data[stdout.stream_id] = digest.update
    assert await client.status() == SUCCESS
    assert stdout.length == size
    expected = hashlib.sha256()
    for _ in range(256):
        expected.update(bytes(range(256)) * 4096)
    assert digest.hexdigest() == expected.hexdigest()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
    await client.close()


async def test_a_slow_reader_stops_a_fast_writer(streaming: Streaming) -> None:
    """What the process wrote is bounded by what the sockets and pipes between hold; then it comes, whole."""
    program = "import os\nfor i in range(64): os.write(1, bytes(1 << 20)); os.write(2, b'x')"
    client = await Exec.start(await streaming.exec_url("python3", "-c", program), "stdout", "stderr")
    client.spdy.paused.clear()
    while not (streaming.adapter.pids and is_held_back(streaming.adapter.pids[-1])):
        await asyncio.sleep(0.01)
    client.spdy.paused.set()
    assert await client.status() == SUCCESS
    assert client.streams["stdout"].length == 64 * MIB
    await client.close()


def is_held_back(pid: int) -> bool:
    """Does it wait in a write to its stdout?"""
    with open(f"/proc/{pid}/syscall") as file:  # noqa: PTH123
        return file.read().startswith("1 0x1 ")


async def test_a_process_that_does_not_read_stops_a_client_that_writes(streaming: Streaming) -> None:
    """Then it reads everything."""
    program = (
        "import signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); print('up', flush=True); "
        "signal.sigwait([signal.SIGUSR1]); print(len(sys.stdin.buffer.read()))"
    )
    client = await Exec.start(
        await streaming.exec_url("python3", "-c", program, stdin=True), "stdin", "stdout", "stderr"
    )
    await client.until_said(b"up\n")
    sending = asyncio.create_task(client.type(bytes(16 * MIB - 1), fin=True))
    while not client.spdy.writer.transport.get_write_buffer_size():
        await asyncio.sleep(0.01)
    assert not sending.done()
    os.kill(streaming.adapter.pids[-1], 10)
    await sending
    assert await client.status() == SUCCESS
    assert client.streams["stdout"].data == b"up\n%d\n" % (16 * MIB - 1)
    await client.close()


async def test_a_hundred_commands_at_once_keep_apart(streaming: Streaming) -> None:
    async def one(number: int) -> None:
        command = f"cat; echo {number}; exit {number % 5}"
        client = await Exec.start(
            await streaming.exec_url("sh", "-c", command, stdin=True), "stdin", "stdout", "stderr"
        )
        await client.type(b"n%d " % number, fin=True)
        status = await client.status()
        assert status == SUCCESS if number % 5 == 0 else status["reason"] == "NonZeroExitCode"
        assert client.streams["stdout"].data == b"n%d %d\n" % (number, number)
        await client.close()

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(one(number))


async def test_a_client_with_windows_gets_no_more_than_they_allow(streaming: Streaming) -> None:
    """And is told how much more it may send as its data is taken."""
    spdy = await Spdy.connect(
        await streaming.exec_url("sh", "-c", "cat; head -c 300000 /dev/zero", stdin=True), "v4.channel.k8s.io"
    )
    spdy.control(SETTINGS, struct.pack(">III", 1, 7, 1000))
    error, stdin, stdout, stderr = [await spdy.open(streamType=kind) for kind in ("error", "stdin", "stdout", "stderr")]
    await spdy.send(stdin, bytes(60_000), fin=True)
    await spdy.until(lambda: stdout.length == 1000)
    assert 0 < spdy.window_updates[0] <= 60_000
    while stdout.length < 360_000:
        allowed = stdout.length + 20_000
        for stream_id in (0, stdout.stream_id):
            spdy.control(WINDOW_UPDATE, struct.pack(">II", stream_id, 20_000))
        target = min(allowed, 360_000)
        await spdy.until(lambda target=target: stdout.length >= target)
        assert stdout.length <= allowed
    spdy.control(WINDOW_UPDATE, struct.pack(">II", error.stream_id, 20_000))
    await spdy.until(lambda: error.ended)
    assert not stderr.length
    await spdy.close()


async def test_data_that_is_consumed_widens_the_streams_window(streaming: Streaming) -> None:
    client = await Exec.start(await streaming.exec_url("cat", stdin=True), "stdin", "stdout", "stderr")
    await client.type(bytes(MIB))
    await client.spdy.until(lambda: client.streams["stdout"].length == MIB)
    assert client.spdy.window_updates[client.streams["stdin"].stream_id] > MIB - 64 * 1024
    await client.close()


async def test_a_stream_that_the_client_resets_ends_for_the_process(streaming: Streaming) -> None:
    client = await Exec.start(await streaming.exec_url("sh", "-c", "yes", stdin=True), "stdin", "stdout", "stderr")
    await client.until_said(b"y\n")
    client.spdy.control(RST_STREAM, struct.pack(">II", client.streams["stdout"].stream_id, 5))
    status = await client.status()
    assert "the client has closed the stream" in status["message"]
    await client.close()


async def test_pings_are_answered(streaming: Streaming) -> None:
    client = await Exec.start(await streaming.exec_url("cat", stdin=True), "stdin", "stdout", "stderr")
    client.spdy.control(6, struct.pack(">I", 41))
    await client.spdy.until(lambda: client.spdy.pings == [41])
    await client.close()
