"""The runtime is killed and comes back: calls fail only while it is away, streams end as they do without the proxy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from testbed import Testbed

from load.clients import BATCHES, EVENTS, RUNTIME, UNKNOWN, Client, connected
from load.conftest import ScriptedRuntime, vitals_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

VERSION, EXEC_SYNC = RUNTIME + "Version", RUNTIME + "ExecSync"
CONTAINERD_EVENTS = "/containerd.services.events.v1.Events/Subscribe"

RESTARTS = 8
AT_ONCE_S = 30.0
"""Only a limit: what fails, fails before."""


async def until_it_answers(socket_path: Path) -> None:
    """Ask over new connections, as fast as is possible."""
    async with asyncio.timeout(60):
        while True:
            async with connected(socket_path) as client:
                with suppress(grpc.aio.AioRpcError):
                    await client.call(VERSION, timeout_s=1)
                    return


async def ending(stream: "grpc.aio.UnaryStreamCall[bytes, bytes]") -> grpc.StatusCode:
    with suppress(grpc.aio.AioRpcError):
        while isinstance(await stream.read(), bytes):
            pass
    return await stream.code()


async def code_of(call: "asyncio.Future[bytes]") -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_calls_under_way_are_unavailable_and_streams_end_as_the_runtimes_own(
    runtime: ScriptedRuntime, proxy: Proxy, direct: Client
) -> None:
    """That which a client sees without the proxy is asked for in the same test."""
    async with connected(proxy.socket_path) as proxied:
        seen = []
        calls = []
        for client in (direct, proxied):
            hold = (("x-hold", "0"),)
            streams = [client.stream(EVENTS), *(client.stream(path, hold) for path in (BATCHES, UNKNOWN))]
            assert isinstance(await streams[0].read(), bytes)
            calls.append([asyncio.ensure_future(client.call(EXEC_SYNC, metadata=hold)) for _ in range(10)])
            seen.append([asyncio.ensure_future(ending(stream)) for stream in streams])
        async with asyncio.timeout(60):
            while (await direct.counters()).in_flight != 26:
                await asyncio.sleep(0.02)
        runtime.kill()
        async with asyncio.timeout(60):
            codes = [{await code_of(call) for call in of_one} for of_one in calls]
            ends = [[await end for end in of_one] for of_one in seen]
    assert codes == [{grpc.StatusCode.UNAVAILABLE}] * 2
    assert ends == [[grpc.StatusCode.UNAVAILABLE] * 3] * 2


async def test_no_call_fails_once_the_runtime_answers_again(runtime: ScriptedRuntime, proxy: Proxy) -> None:
    """Again and again, with calls all the while, and after pauses in which gRPC's own backoff would grow."""
    async with connected(proxy.socket_path) as client:
        await client.call(VERSION)
        before = vitals_of(proxy)
        for number in range(RESTARTS):
            runtime.kill()
            for _ in range(number % 4):
                assert await code_of(asyncio.ensure_future(client.call(VERSION))) is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.1 * number)
            runtime.start()
            await until_it_answers(runtime.socket_path)
            async with connected(proxy.socket_path) as new_client, asyncio.timeout(AT_ONCE_S):
                await asyncio.gather(*(who.call(VERSION) for who in (client, new_client) for _ in range(20)))
            stream = client.stream(EVENTS)
            assert isinstance(await asyncio.wait_for(stream.read(), AT_ONCE_S), bytes)
            stream.cancel()
        assert vitals_of(proxy).descriptors == before.descriptors


@pytest.mark.testbed
class TestContainerd:
    """The same with the real one."""

    @pytest.fixture
    async def proxy(self, bed: Testbed, tmp_path: Path) -> AsyncIterator[Proxy]:
        config = tmp_path / "config.yaml"
        config.write_text(f"remote_runtime_endpoints:\n  default: {bed.node.socket}\n")
        proxy = Proxy(tmp_path, config)
        await proxy.start()
        yield proxy
        proxy.terminate()

    @pytest.fixture
    async def container_id(self, bed: Testbed, tmp_path: Path) -> AsyncIterator[str]:
        """Of a container that runs, and outlives its containerd."""
        async with Kubelet.of(bed.node.socket, tmp_path / "pods") as kubelet:
            await kubelet.pull(bed.registry.busybox)
            pod = await kubelet.run_pod_sandbox("restart")
            try:
                container_id = await kubelet.create_container(pod, bed.registry.busybox, command=["sleep", "600"])
                await kubelet.start(container_id)
                yield container_id
            finally:
                await kubelet.remove_sandbox(pod.sandbox_id)

    async def test_a_killed_containerd_is_used_again_as_soon_as_it_answers(
        self, bed: Testbed, proxy: Proxy, container_id: str
    ) -> None:
        sleep = cri.ExecSyncRequest(container_id=container_id, cmd=["sleep", "60"], timeout=60).SerializeToString()
        true = cri.ExecSyncRequest(container_id=container_id, cmd=["true"], timeout=20).SerializeToString()
        async with connected(proxy.socket_path) as proxied, connected(bed.node.socket) as direct:
            ways = (direct, proxied)
            calls = [asyncio.ensure_future(way.call(EXEC_SYNC, sleep)) for way in ways]
            ends = [asyncio.ensure_future(ending(way.stream(CONTAINERD_EVENTS))) for way in ways]
            await both_run(direct, container_id)
            bed.node.kill()
            try:
                async with asyncio.timeout(60):
                    assert [await code_of(call) for call in calls] == [grpc.StatusCode.UNAVAILABLE] * 2
                    assert [await end for end in ends] == [grpc.StatusCode.UNAVAILABLE] * 2
                assert await code_of(asyncio.ensure_future(proxied.call(VERSION))) is grpc.StatusCode.UNAVAILABLE
                bed.node.daemon.start()
                await until_it_answers(bed.node.socket)
                async with asyncio.timeout(AT_ONCE_S):
                    await proxied.call(VERSION)
                    await asyncio.gather(*(proxied.call(RUNTIME + "ListPodSandbox") for _ in range(20)))
            finally:
                bed.node.start()
            assert await proxied.call(EXEC_SYNC, true) == await direct.call(EXEC_SYNC, true)


async def both_run(client: Client, container_id: str) -> None:
    """Until the container has both processes of exec."""
    ps = cri.ExecSyncRequest(container_id=container_id, cmd=["ps"], timeout=20).SerializeToString()
    async with asyncio.timeout(60):
        while cri.ExecSyncResponse.FromString(await client.call(EXEC_SYNC, ps)).stdout.count(b"sleep 60\n") < 2:
            await asyncio.sleep(0.05)
