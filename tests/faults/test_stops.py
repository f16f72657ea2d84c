"""A stop that waits out a long grace period keeps nobody waiting who has none to give."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from kubelet.client import PodOnNode
from testbed import Testbed

from faults.conftest import Node
from faults.looking import eventually, jobs_of, jobs_that_live
from faults.test_ssh import begin

pytestmark = pytest.mark.testbed

IGNORES_TERM = [
    "sh",
    "-c",
    "trap 'echo told' TERM; n=0; while [ $n -lt 3 ]; do echo $n; n=$((n+1)); done; while :; do sleep 0.1; done",
]


@pytest.mark.parametrize("how", ["stop", "remove", "remove the pod"])
async def test_a_shorter_stop_ends_a_longer_one(
    bed: Testbed, node: Node, image: str, account: dict[str, str], how: str
) -> None:
    pod, container_id = await begin(node.kubelet, "stubborn", image, account, IGNORES_TERM)
    longer = asyncio.ensure_future(node.kubelet.stop(container_id, 3600))
    await node.kubelet.wait_for_log(pod, "told\n")
    shorter: dict[str, Callable[[Node, PodOnNode, str], Awaitable[None]]] = {
        "stop": lambda node, _, container_id: node.kubelet.stop(container_id, 0),
        "remove": lambda node, _, container_id: node.kubelet.remove(container_id),
        "remove the pod": lambda node, pod, _: node.kubelet.remove_sandbox(pod.sandbox_id),
    }
    async with asyncio.timeout(60):
        await shorter[how](node, pod, container_id)
        await longer
    await eventually(lambda: not set(jobs_of(bed, container_id)) & set(jobs_that_live(bed)), lambda: "it runs still")
