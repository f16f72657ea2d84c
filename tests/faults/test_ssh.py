"""SSH connections that break, hang, or are refused: containers keep their state, and then go on."""

import asyncio

import grpc
import grpc.aio
import pytest
from isolation.faults import cut_off
from kubelet import Kubelet
from kubelet.client import PodOnNode
from main_job.conftest import account_of
from testbed import Testbed

from faults.breaking import (
    Gate,
    another_host_key,
    another_password,
    kill_sessions,
    locked,
    slow,
    sshd_with,
    still,
    without,
)
from faults.conftest import HANDLER, MakeNode, Node
from faults.looking import agree, eventually, jobs_of, jobs_that_live, printed
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

COUNTS = ["sh", "-c", "trap 'exit 6' TERM; n=0; while :; do echo $n; n=$((n+1)); sleep 0.1; done"]
COUNTS_TO_40 = [
    "sh",
    "-c",
    "trap 'exit 6' TERM; n=0; while [ $n -lt 40 ]; do echo $n; n=$((n+1)); sleep 0.1; done; exit 5",
]


async def begin(
    kubelet: Kubelet, name: str, image: str, account: dict[str, str], command: list[str]
) -> tuple[PodOnNode, str]:
    """A container that has begun to count."""
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox(name, handler=HANDLER)
    container_id = await kubelet.create_container(pod, image, command=command, env=account)
    await kubelet.start(container_id)
    await kubelet.wait_for_log(pod, "2\n")
    return pod, container_id


def counted(pod: PodOnNode) -> int:
    """How far the log has come. Fails if a number is missing, or there twice."""
    numbers = printed(pod)[b"stdout"].split()
    assert numbers == [b"%d" % number for number in range(len(numbers))]
    return len(numbers)


async def goes_on(pod: PodOnNode) -> None:
    before = counted(pod)
    await eventually(lambda: counted(pod) > before + 10, lambda: f"its log stays at {counted(pod)}")


async def test_sshd_is_killed_and_comes_back(bed: Testbed, node: Node, image: str, account: dict[str, str]) -> None:
    stays, _ = await begin(node.kubelet, "stays", image, account, COUNTS)
    ends, ending = await begin(node.kubelet, "ends", image, account, COUNTS_TO_40)
    with without(bed, "sshd"):
        kill_sessions(bed, "alice")
        await eventually(lambda: not set(jobs_of(bed, ending)) & set(jobs_that_live(bed)), lambda: "it does not end")
        assert {one.state for one in await node.kubelet.containers()} >= {cri.CONTAINER_RUNNING}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.kubelet.stop(ending, 5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await node.kubelet.wait_until_exited(ending)).exit_code == 5
    assert counted(ends) == 40
    await goes_on(stays)
    await agree(bed, node.kubelet)


async def test_the_network_is_cut_in_the_middle_of_sbatch(
    bed: Testbed, nodes: MakeNode, image: str, account: dict[str, str]
) -> None:
    node = await nodes(command_timeout_s=5)
    stays, _ = await begin(node.kubelet, "stays", image, account, COUNTS)
    pod = await node.kubelet.run_pod_sandbox("cut", handler=HANDLER)
    container_id = await node.kubelet.create_container(pod, image, command=COUNTS_TO_40, env=account)
    with Gate(bed).of("sbatch") as gate:
        gate.close("sbatch", "before", pod.sandbox_id)
        start = asyncio.ensure_future(node.kubelet.start(container_id))
        await eventually(gate.reached, gate.waiting_for)
        with cut_off(bed):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await start
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            gate.open()
            await eventually(lambda: bool(jobs_of(bed, container_id)), lambda: "sbatch has not gone on")
            assert (await node.kubelet.status(container_id)).state == cri.CONTAINER_CREATED
    while True:  # as the kubelet does
        try:
            await node.kubelet.start(container_id)
            break
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
    assert (await node.kubelet.wait_until_exited(container_id)).exit_code == 5
    assert counted(pod) == 40
    assert len(jobs_of(bed, container_id)) == 1
    await goes_on(stays)
    await agree(bed, node.kubelet)


async def test_one_accounts_home_hangs(bed: Testbed, nodes: MakeNode, image: str, account: dict[str, str]) -> None:
    node = await nodes(command_timeout_s=5)
    hangs, hanging = await begin(node.kubelet, "hangs", image, account, COUNTS)
    bobs = account_of(bed, "bob") | {"JOB_CUSTOM_CONFIG": "--mem=10M"}
    other, _ = await begin(node.kubelet, "other", image, bobs, COUNTS)
    with still(bed, "alice"):
        await goes_on(other)
        assert (await node.kubelet.status(hanging)).state == cri.CONTAINER_RUNNING
        # What hangs is given up, and all goes on over another connection, although the first one hangs still.
        await goes_on(hangs)
        await node.kubelet.stop(hanging, 30)
        assert (await node.kubelet.status(hanging)).exit_code == 6
    await agree(bed, node.kubelet)


async def test_a_home_that_is_slow_makes_its_accounts_pods_slow_and_nothing_else(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    bobs = account_of(bed, "bob") | {"JOB_CUSTOM_CONFIG": "--mem=10M"}
    other, _ = await begin(node.kubelet, "other", image, bobs, COUNTS)
    with slow(bed, "alice"):
        pod, container_id = await begin(node.kubelet, "slow", image, account, COUNTS_TO_40)
        await goes_on(other)
        assert (await node.kubelet.wait_until_exited(container_id)).exit_code == 5
        await eventually(lambda: counted(pod) == 40, lambda: f"its log has {counted(pod)} lines")
        assert len(jobs_of(bed, container_id)) == 1
        await node.kubelet.remove_sandbox(pod.sandbox_id)
    await goes_on(other)
    await agree(bed, node.kubelet)


async def test_an_sshd_that_allows_two_sessions_is_enough(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    with sshd_with(bed, MaxSessions=2):
        pods = await asyncio.gather(
            *(begin(node.kubelet, f"pod-{number}", image, account, COUNTS) for number in range(6))
        )
        for pod, _ in pods:
            await goes_on(pod)
        await node.remove_everything()


async def test_accounts_refuse_us_while_their_containers_run(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    bobs = account_of(bed, "bob") | {"JOB_CUSTOM_CONFIG": "--mem=10M"}
    pods = [
        await begin(node.kubelet, "another-password", image, account, COUNTS),
        await begin(node.kubelet, "locked", image, bobs, COUNTS),
    ]
    with another_password(bed, "alice"), locked(bed, "bob"):
        for pod, container_id in pods:
            await assert_refused(node, pod, container_id, "check CLUSTER_USERNAME and CLUSTER_PASSWORD")
    await node.remove_everything()


async def test_the_host_key_changes_while_a_container_runs(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    pod, container_id = await begin(node.kubelet, "stays", image, account, COUNTS)
    with another_host_key(bed):
        await assert_refused(node, pod, container_id, "its host key is not the one in")
    await goes_on(pod)


async def assert_refused(node: Node, pod: PodOnNode, container_id: str, words: str) -> None:
    """It is neither stopped nor removed, the kubelet is told why at once, and it counts as running as it does."""
    for call in (
        node.kubelet.stop(container_id, 1),
        node.kubelet.remove(container_id),
        node.kubelet.remove_sandbox(pod.sandbox_id),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, caught.value
        assert words in str(caught.value.details())
    assert (await node.kubelet.status(container_id)).state == cri.CONTAINER_RUNNING
