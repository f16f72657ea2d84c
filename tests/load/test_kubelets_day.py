"""What kubelets do all day, against 500 pods: nothing of the proxy grows.

A few seconds, or as many as ``MULTICRI_SOAK_S`` says.
"""

import asyncio
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from kubelet import Proxy

from load.clients import EVENTS, IMAGE, RUNTIME, Client, all_connected
from load.conftest import ScriptedRuntime, vitals_of
from load.runtime import PODS, identity
from load.vitals import MIB, POOL_THREADS, Vitals
from multicri_proxy.cri.v1 import runtime_pb2 as cri

SECONDS = float(os.environ.get("MULTICRI_SOAK_S", "16"))
WARM_UP_S = min(30.0, SECONDS / 4)
KUBELETS = 8
"""Each relists once in a second, as one kubelet does: this is the load of so many nodes."""

MOST_GROWTH_BYTES = 4 * MIB
"""Of the last quarter's resident memory over the first one's, medians. The kernel's and malloc's rounding is in it."""


class Kubelets:
    """What they have done."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.events = 0

    async def work(self, client: Client) -> None:
        """One kubelet: PLEG, probes, stats, housekeeping, and a stream of events that is opened anew now and then."""
        async with asyncio.TaskGroup() as group:
            for period_s, work in (
                (1.0, self._relist),
                (0.1, self._probe),
                (10.0, self._stats),
                (5.0, self._housekeeping),
                (3.0, self._events),
            ):
                group.create_task(_repeat(period_s, work, client))

    async def _call(self, client: Client, path: str, request: bytes = b"") -> None:
        await client.call(path, request, timeout_s=20)
        self.calls[path.rpartition("/")[2]] += 1

    async def _relist(self, client: Client) -> None:
        """Then a look at the pods in which something has changed."""
        await self._call(client, RUNTIME + "ListPodSandbox")
        await self._call(client, RUNTIME + "ListContainers")
        for number in random.sample(range(PODS), 5):
            sandbox = cri.PodSandboxStatusRequest(pod_sandbox_id=identity("sandbox", number))
            container = cri.ContainerStatusRequest(container_id=identity("container", number))
            await self._call(client, RUNTIME + "PodSandboxStatus", sandbox.SerializeToString())
            await self._call(client, RUNTIME + "ContainerStatus", container.SerializeToString())

    async def _probe(self, client: Client) -> None:
        container_id = identity("container", random.randrange(PODS))
        request = cri.ExecSyncRequest(container_id=container_id, cmd=["true"], timeout=1)
        await self._call(client, RUNTIME + "ExecSync", request.SerializeToString())

    async def _stats(self, client: Client) -> None:
        await self._call(client, RUNTIME + "ListContainerStats")
        await self._call(client, IMAGE + "ImageFsInfo")

    async def _housekeeping(self, client: Client) -> None:
        await self._call(client, RUNTIME + "Version")
        await self._call(client, RUNTIME + "Status")
        await self._call(client, IMAGE + "ListImages")

    async def _events(self, client: Client) -> None:
        stream = client.stream(EVENTS)
        for _ in range(random.randrange(1, 100)):
            assert isinstance(await stream.read(), bytes)
            self.events += 1
        stream.cancel()


async def _repeat(period_s: float, work: Callable[[Client], Awaitable[None]], client: Client) -> None:
    """Kubelets do not start all at once, nor does any of their loops."""
    await asyncio.sleep(random.uniform(0, period_s))
    while True:
        started = time.monotonic()
        await work(client)
        await asyncio.sleep(max(0.0, started + period_s - time.monotonic()))


async def watched(proxy: Proxy, seconds: float) -> list[Vitals]:
    samples = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        samples.append(vitals_of(proxy))
        await asyncio.sleep(0.5)
    return samples


async def test_nothing_grows_while_kubelets_work(
    proxy: Proxy, runtime: ScriptedRuntime, direct: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    kubelets = Kubelets()
    async with all_connected(proxy.socket_path, KUBELETS) as clients, asyncio.TaskGroup() as group:
        working = [group.create_task(kubelets.work(client)) for client in clients]
        warming = await watched(proxy, WARM_UP_S)
        samples = await watched(proxy, SECONDS - WARM_UP_S)
        for work in working:
            work.cancel()
    await direct.until_idle()
    quarter = len(samples) // 4
    first, last = (
        statistics.median(sample.resident_bytes for sample in part) for part in (samples[:quarter], samples[-quarter:])
    )
    with capsys.disabled():
        print(f"\n{SECONDS:g} s, {KUBELETS} kubelets, {kubelets.calls.total()} calls, {kubelets.events} events")
        print(f"  at the start {warming[0]}\n  warm         {samples[0]}\n  at the end   {samples[-1]}")
        print(f"  first quarter {first / MIB:.2f} MiB, last quarter {last / MIB:.2f} MiB")
    assert last - first < MOST_GROWTH_BYTES
    assert max(sample.threads for sample in samples) <= samples[0].threads + POOL_THREADS
    most = max(sample.descriptors for sample in samples[:quarter])
    assert max(sample.descriptors for sample in samples[-quarter:]) <= most
