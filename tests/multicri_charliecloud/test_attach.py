"""A client joined with a container's own process."""

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import PodOnNode, read_log
from streaming.websocket_client import WebSocket

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

STDIN, STDOUT, STDERR, RESIZE = 0, 1, 2, 4
READER = ["sh", "-c", 'while read line; do echo "got $line"; [ "$line" != end ] || exit 7; done; exit 1']


@pytest.fixture
async def pod(kubelet: Kubelet, image: str) -> PodOnNode:
    await kubelet.pull(image)
    return await kubelet.run_pod_sandbox("attach", handler="multicri")


@asynccontextmanager
async def attached(kubelet: Kubelet, container: str, *, tty: bool = False) -> AsyncIterator[WebSocket]:
    request = cri.AttachRequest(container_id=container, stdin=True, stdout=True, stderr=not tty, tty=tty)
    url = (await kubelet.call(request, cri.AttachResponse)).url
    client = await WebSocket.connect(url, "v5.channel.k8s.io")
    yield client
    await client.close()


async def test_what_is_typed_comes_and_what_is_said_is_seen_also_from_the_next_daemon(
    kubelet: Kubelet, proxy: Proxy, pod: PodOnNode, image: str
) -> None:
    container = await kubelet.create_container(pod, image, command=READER, stdin=True)
    await kubelet.start(container)
    async with attached(kubelet, container) as client:
        await client.send(STDIN, b"one\n")
        await client.until_said(STDOUT, b"got one\n")
        proxy.kill()
    await proxy.start()
    async with attached(kubelet, container) as client, attached(kubelet, container) as other:
        await other.send(STDIN, b"two\n")
        await other.until_said(STDOUT, b"got two\n")
        await client.send(STDIN, b"three\n")
        await other.until_said(STDOUT, b"got three\n")
        await client.send(STDIN, b"end\n")
        await client.until_said(STDOUT, b"got end\n")
        await client.until_closed()
    assert (await kubelet.wait_until_exited(container)).exit_code == 7
    assert read_log(pod) == ["got one\n", "got two\n", "got three\n", "got end\n"]


async def test_stdin_that_is_for_one_client_ends_with_it(kubelet: Kubelet, pod: PodOnNode, image: str) -> None:
    container = await kubelet.create_container(pod, image, command=["wc", "-c"], stdin=True, stdin_once=True)
    await kubelet.start(container)
    async with attached(kubelet, container) as client:
        await client.send(STDIN, b"x" * 300_000)
        await client.frame(2, bytes([255, STDIN]))
        await client.until_closed()
        assert client.said[STDOUT].strip() == b"300000"
    assert (await kubelet.wait_until_exited(container)).exit_code == 0


async def test_a_containers_terminal_has_the_clients_size_and_takes_ctrl_c(
    kubelet: Kubelet, pod: PodOnNode, image: str
) -> None:
    container = await kubelet.create_container(pod, image, command=["sh"], stdin=True, tty=True)
    await kubelet.start(container)
    async with attached(kubelet, container, tty=True) as client:
        await client.send(RESIZE, b'{"Width":99,"Height":33}')
        # a program with a handler: between a shell's fork and exec Ctrl-C reaches nobody
        program = "trap 'exit 4' INT; until [ \"$(stty size)\" = '33 99' ]; do sleep 0.05; done; echo sized; "
        await client.send(STDIN, f"sh -c {shlex.quote(program + 'while :; do sleep 0.05; done')}\n".encode())
        await client.until_said(STDOUT, b"\nsized")
        await client.send(STDIN, b"\x03")
        await client.send(STDIN, b"exit $(($? + 1))\n")
        await client.until_closed()
    assert (await kubelet.wait_until_exited(container)).exit_code == 5
    assert "sized" in "".join(read_log(pod))


async def test_stdin_that_the_pod_did_not_ask_for_is_refused_and_devices_are_opened_anew(
    kubelet: Kubelet, pod: PodOnNode, image: str
) -> None:
    script = "echo one; echo two >/dev/stdout; echo three >/dev/stderr; read nothing; sleep 600"
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script])
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "three\n")
    assert read_log(pod, stream="stdout") == ["one\n", "two\n"]
    async with attached(kubelet, container) as client:
        assert "has no stdin" in (await client.status())["message"]
    await kubelet.stop(container, grace_period_s=0)
    with pytest.raises(grpc.aio.AioRpcError, match="not running"):
        await kubelet.call(cri.AttachRequest(container_id=container, stdout=True), cri.AttachResponse)
