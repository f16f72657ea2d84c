"""``kill -9`` of the proxy at each step of a creation, a start, a stop and a removal: the real programs are held up.

Each test holds up several pods, each at another step, before it kills.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import TypeVar

import grpc.aio
import pytest
from kubelet.client import PodOnNode
from testbed import Testbed

from faults.breaking import Gate
from faults.conftest import HANDLER, Node
from faults.looking import agree, details_of, eventually, jobs_of, printed

pytestmark = pytest.mark.testbed

T = TypeVar("T")

CREATION = [("mkdir", "before"), ("mkdir", "after"), ("chmod", "before"), ("chmod", "after")]
START = [("flock", "before"), ("flock", "after"), ("sbatch", "before"), ("sbatch", "after"), ("mv", "after")]
END = [("scancel", "before"), ("scancel", "after"), ("rm", "before"), ("rm", "after")]
ENDS = ["sh", "-c", "seq 1 1000; exit 5"]
STAYS = ["sh", "-c", "trap 'exit 6' TERM; echo up; while :; do sleep 0.1; done"]


async def as_the_kubelet_does(call: Callable[[], Awaitable[T]]) -> T:
    """A call whose answer was lost, made again until it is answered."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            await asyncio.sleep(0.3)


async def start_again(node: Node, container_id: str) -> None:
    """A start that has happened, or whose container has ended since, may be refused as such."""
    try:
        await node.kubelet.start(container_id)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise


async def kill_when_held_up(node: Node, gate: Gate, calls: Sequence[Coroutine[object, object, object]]) -> None:
    """Begin the calls, kill the proxy once all are where they are held up, start it again and let everything go on."""
    under_way = [asyncio.ensure_future(call) for call in calls]
    await eventually(gate.reached, gate.waiting_for)
    node.proxy.kill()
    assert all(
        isinstance(one, grpc.aio.AioRpcError) for one in await asyncio.gather(*under_way, return_exceptions=True)
    )
    await node.proxy.start()
    gate.open()


async def pods_of(node: Node, steps: Sequence[tuple[str, str]], image: str) -> list[PodOnNode]:
    await node.kubelet.pull(image)
    names = [f"{program}-{when}" for program, when in steps]
    return [await node.kubelet.run_pod_sandbox(name, handler=HANDLER) for name in names]


async def assert_ran_once(bed: Testbed, node: Node, pod: PodOnNode, container_id: str) -> None:
    status = await node.kubelet.wait_until_exited(container_id)
    assert (status.exit_code, status.reason) == (5, "Error"), pod.config.metadata.name
    await eventually(
        lambda: printed(pod)[b"stdout"] == b"".join(b"%d\n" % number for number in range(1, 1001)),
        lambda: f"{pod.config.metadata.name}: {printed(pod)}",
    )
    assert len(jobs_of(bed, container_id)) == 1, pod.config.metadata.name


async def test_killed_at_each_step_of_a_creation(bed: Testbed, node: Node, image: str, account: dict[str, str]) -> None:
    pods = await pods_of(node, CREATION, image)
    with Gate(bed).of("mkdir", "chmod") as gate:
        for pod, (program, when) in zip(pods, CREATION, strict=True):
            gate.close(program, when, pod.sandbox_id)
        creations = [node.kubelet.create_container(pod, image, command=ENDS, env=account) for pod in pods]
        await kill_when_held_up(node, gate, creations)
        created = [
            await as_the_kubelet_does(partial(node.kubelet.create_container, pod, image, command=ENDS, env=account))
            for pod in pods
        ]
    for pod, container_id in zip(pods, created, strict=True):
        await node.kubelet.start(container_id)
        await assert_ran_once(bed, node, pod, container_id)


async def test_killed_at_each_step_of_a_start(bed: Testbed, node: Node, image: str, account: dict[str, str]) -> None:
    pods = await pods_of(node, START, image)
    containers = [await node.kubelet.create_container(pod, image, command=ENDS, env=account) for pod in pods]
    with Gate(bed).of("flock", "sbatch", "mv") as gate:
        for pod, (program, when) in zip(pods, START, strict=True):
            gate.close(program, when, pod.sandbox_id)
        await kill_when_held_up(node, gate, [node.kubelet.start(one) for one in containers])
        for container_id in containers:
            await as_the_kubelet_does(partial(start_again, node, container_id))
    for pod, container_id in zip(pods, containers, strict=True):
        await assert_ran_once(bed, node, pod, container_id)


async def test_killed_at_each_step_of_a_stop_and_a_removal(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    pods = await pods_of(node, END, image)
    containers = [await node.kubelet.create_container(pod, image, command=STAYS, env=account) for pod in pods]
    for pod, container_id in zip(pods, containers, strict=True):
        await node.kubelet.start(container_id)
        await node.kubelet.wait_for_log(pod, "up")
    await agree(bed, node.kubelet)
    with Gate(bed).of("scancel", "rm") as gate:
        calls: list[Coroutine[object, object, object]] = []
        for pod, container_id, (program, when) in zip(pods, containers, END, strict=True):
            if program == "rm":
                await node.kubelet.stop(container_id, 30)
                gate.close(program, when, pod.sandbox_id)
                calls.append(node.kubelet.remove(container_id))
            else:
                gate.close(program, when, (await details_of(node.kubelet, container_id))["job_id"])
                calls.append(node.kubelet.stop(container_id, 30))
        await kill_when_held_up(node, gate, calls)
    for container_id, (program, _) in zip(containers, END, strict=True):
        await as_the_kubelet_does(partial(node.kubelet.stop, container_id, 30))
        if program == "scancel":
            assert (await node.kubelet.status(container_id)).exit_code == 6
        await as_the_kubelet_does(partial(node.kubelet.remove, container_id))
    assert not {one.id for one in await node.kubelet.containers()} & set(containers)
