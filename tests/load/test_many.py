"""Many calls at once, readers that do not read, clients that are gone: nothing is lost, nothing is left over."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc.aio
import pytest
from kubelet import Proxy

from load.clients import BATCHES, EVENTS, RUNTIME, UNKNOWN, VANISHING_CALLS, Client, all_connected, connected
from load.conftest import running_client, vitals_of
from load.runtime import FLOOD_PIECE_BYTES
from load.vitals import MIB, POOL_THREADS

MANY = 1000

FLOOD_BYTES = 256 * MIB
SLOW_READERS = 8
MOST_HELD_BYTES = 40 * MIB
"""For each: gRPC lets its windows grow on a fast connection, and there are two, before the proxy and behind it."""


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("connections", [1, 50])
async def test_a_thousand_calls_are_under_way_at_once(proxy: Proxy, direct: Client, connections: int) -> None:
    """The runtime answers none of them before it has all."""
    hold = (("x-hold", str(MANY)),)
    async with all_connected(proxy.socket_path, connections) as clients:
        await asyncio.gather(*(client.call(RUNTIME + "Version") for client in clients))
        before = vitals_of(proxy)
        paths = (RUNTIME + "ExecSync", RUNTIME + "ListContainers", RUNTIME + "ContainerStatus", RUNTIME + "Version")
        answers = await asyncio.gather(
            *(clients[n % connections].call(paths[n % len(paths)], metadata=hold) for n in range(MANY))
        )
        assert len(answers) == MANY
        assert all(answers)
        after = vitals_of(proxy)
    await direct.until_idle()
    assert after.descriptors == before.descriptors


@pytest.mark.parametrize("path", [EVENTS, BATCHES, UNKNOWN])
async def test_what_a_reader_does_not_read_stays_with_the_runtime(proxy: Proxy, direct: Client, path: str) -> None:
    flood = (("x-flood", str(FLOOD_BYTES)),)
    async with connected(proxy.socket_path) as other, all_connected(proxy.socket_path, SLOW_READERS) as clients:
        await other.call(RUNTIME + "Version")
        before = vitals_of(proxy)
        streams = [client.stream(path, flood) for client in clients]
        for stream in streams:
            assert await stream.read() is not grpc.aio.EOF
        held_bytes = await stalled(direct)
        grown_bytes = vitals_of(proxy).resident_bytes - before.resident_bytes
        assert held_bytes < SLOW_READERS * MOST_HELD_BYTES
        assert grown_bytes < SLOW_READERS * MOST_HELD_BYTES
        await asyncio.wait_for(other.call(RUNTIME + "ListContainers"), 60)
        assert await all_of(streams[0]) == FLOOD_BYTES - FLOOD_PIECE_BYTES, "what was held back comes when it is read"
        for stream in streams:
            stream.cancel()


async def all_of(stream: "grpc.aio.UnaryStreamCall[bytes, bytes]") -> int:
    """The size of what is left of a stream."""
    size_bytes = 0
    while isinstance(message := await stream.read(), bytes):
        size_bytes += len(message)
    return size_bytes


async def stalled(direct: Client) -> int:
    """How much the runtime has sent when it cannot send more."""
    sent_bytes, unchanged = -1, 0
    while unchanged < 10:
        await asyncio.sleep(0.05)
        now_bytes = (await direct.counters()).flooded_bytes
        sent_bytes, unchanged = now_bytes, unchanged + 1 if now_bytes == sent_bytes else 0
    return sent_bytes


@pytest.mark.parametrize("flood_bytes", [0, FLOOD_BYTES])
async def test_clients_that_are_killed_leave_nothing_behind(proxy: Proxy, direct: Client, flood_bytes: int) -> None:
    """Neither in the runtime, whose calls are cancelled, nor in the proxy."""

    async def all_in_flight() -> bool:
        return (await direct.counters()).in_flight == VANISHING_CALLS

    samples = []
    for _ in range(12):
        with running_client(proxy.socket_path, flood_bytes) as client:
            await until(all_in_flight)
            client.kill()
        await direct.until_idle()
        samples.append(vitals_of(proxy))
    warm, last = samples[3], samples[-1]
    assert last.descriptors == warm.descriptors
    assert last.threads <= warm.threads + POOL_THREADS
    if not flood_bytes:  # else it is what was held for the unlucky that is kept for the next ones
        assert last.resident_bytes - warm.resident_bytes < 4 * MIB
