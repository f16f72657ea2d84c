"""Exec with and without a terminal, and ports."""

import asyncio
import shlex
import socket

import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import PodOnNode
from node_processes import processes_with
from streaming.spdy_client import Spdy
from streaming.websocket_client import WebSocket

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

STDIN, STDOUT, RESIZE = 0, 1, 4


@pytest.fixture
async def pod(kubelet: Kubelet, image: str) -> PodOnNode:
    await kubelet.pull(image)
    return await kubelet.run_pod_sandbox("exec", handler="multicri")


@pytest.fixture
async def container(kubelet: Kubelet, pod: PodOnNode, image: str) -> str:
    container = await kubelet.create_container(
        pod, image, command=["sh", "-c", "echo own >/etc/own; echo ready; sleep 600"], env={"SECRET": "a 'b' $c"}
    )
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "ready\n")
    return container


async def _sync(kubelet: Kubelet, container: str, *command: str, timeout_s: int = 30) -> cri.ExecSyncResponse:
    request = cri.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout_s)
    return await kubelet.call(request, cri.ExecSyncResponse)


async def test_a_command_runs_among_the_containers_processes_with_its_environment(
    kubelet: Kubelet, container: str
) -> None:
    script = 'cat /etc/own; echo "$SECRET $FOO $(id -u)"; tr "\\0" " " </proc/1/cmdline; echo err >&2; exit 7'
    answer = await _sync(kubelet, container, "sh", "-c", script)
    assert answer.exit_code == 7
    assert answer.stderr == b"err\n"
    own, variables, first = answer.stdout.decode().splitlines()
    assert (own, variables) == ("own", "a 'b' $c fromimage 0")
    assert first == "sleep 600 "


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("kill -9 $$", 137), ("no-such-program", 127)])
async def test_exec_has_the_commands_exit_code(kubelet: Kubelet, container: str, script: str, code: int) -> None:
    assert (await _sync(kubelet, container, "sh", "-c", script)).exit_code == code


async def test_a_command_can_open_its_output_anew(kubelet: Kubelet, container: str) -> None:
    answer = await _sync(kubelet, container, "sh", "-c", "echo out; echo err >/dev/stderr; echo more >/dev/stdout")
    assert (answer.stdout, answer.stderr) == (b"out\nmore\n", b"err\n")


async def test_a_command_that_is_not_there_is_told(kubelet: Kubelet, container: str) -> None:
    answer = await _sync(kubelet, container, "no-such-program")
    assert answer.exit_code == 127
    assert b"no-such-program" in answer.stderr


async def test_a_command_whose_time_is_up_is_gone_with_what_it_began(
    kubelet: Kubelet, container: str, proxy: Proxy
) -> None:
    mark = f"{proxy.directory}-probe"
    script = f"sh -c 'sleep 600; : {mark}'; :"
    with pytest.raises(Exception, match="did not end within 1 s"):
        await _sync(kubelet, container, "sh", "-c", script, timeout_s=1)
    assert processes_with(mark) == []


async def test_stdin_comes_and_ends(kubelet: Kubelet, container: str) -> None:
    request = cri.ExecRequest(container_id=container, cmd=["wc", "-c"], stdin=True, stdout=True)
    url = (await kubelet.call(request, cri.ExecResponse)).url
    client = await WebSocket.connect(url, "v5.channel.k8s.io")
    await client.send(STDIN, b"x" * 100_000)
    await client.frame(2, bytes([255, STDIN]))
    assert (await client.status())["status"] == "Success"
    assert client.said[STDOUT].strip() == b"100000"
    await client.close()


async def test_a_terminal_has_a_size_and_takes_ctrl_c(kubelet: Kubelet, container: str) -> None:
    request = cri.ExecRequest(container_id=container, cmd=["sh"], stdin=True, stdout=True, tty=True)
    url = (await kubelet.call(request, cri.ExecResponse)).url
    client = await WebSocket.connect(url, "v4.channel.k8s.io")
    await client.send(RESIZE, b'{"Width":99,"Height":33}')
    # a program with a handler: between a shell's fork and exec Ctrl-C reaches nobody
    program = "trap 'exit 4' INT; until [ \"$(stty size)\" = '33 99' ]; do sleep 0.05; done; echo sized; "
    await client.send(STDIN, f"sh -c {shlex.quote(program + 'while :; do sleep 0.05; done')}\n".encode())
    await client.until_said(STDOUT, b"\nsized")
    await client.send(STDIN, b"\x03")
    await client.send(STDIN, b"exit $(($? + 1))\n")
    status = await client.status()
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "5"}]
    await client.close()


async def test_a_port_of_a_pod_is_reached(kubelet: Kubelet, pod: PodOnNode, container: str) -> None:
    """It is one of the node: the pod's own network namespace is the node's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = f"while :; do echo from the pod | nc -l -p {port}; done"
    request = cri.ExecRequest(container_id=container, cmd=["sh", "-c", server], stdout=True)
    serving = await WebSocket.connect((await kubelet.call(request, cri.ExecResponse)).url, "v4.channel.k8s.io")
    forward = cri.PortForwardRequest(pod_sandbox_id=pod.sandbox_id, port=[port])
    async with asyncio.timeout(60):
        data = b""
        while b"from the pod" not in data:  # until it listens
            spdy = await Spdy.connect((await kubelet.call(forward, cri.PortForwardResponse)).url, "portforward.k8s.io")
            error = await spdy.open(streamType="error", port=str(port), requestID="1")
            await spdy.send(error, b"", fin=True)
            stream = await spdy.open(streamType="data", port=str(port), requestID="1")
            await spdy.until(lambda: error.ended or stream.ended)  # noqa: B023
            data = bytes(stream.data)
            await spdy.close()
    await serving.close()
