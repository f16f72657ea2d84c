"""``kill -9`` of the proxy at each step of a pod that is one allocation: the real programs are held up."""

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial

import pytest
from kubelet.client import PodOnNode
from testbed import Testbed

from faults.breaking import Gate
from faults.conftest import HANDLER, Node
from faults.looking import details_of, eventually, printed
from faults.test_kills import ENDS, STAYS, as_the_kubelet_does, kill_when_held_up, start_again
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

MODEL = {"slurm.multicri.io/pod-model": "allocation-per-pod", "slurm.multicri.io/mem": "20M"}
NAMES = ("one", "two")
CREATION = [("mkdir", "before"), ("mkdir", "after")]
SUBMIT = [("flock", "before"), ("flock", "after"), ("sbatch", "before"), ("sbatch", "after"), ("mv", "after")]
STEP = [("flock", "before"), ("flock", "after")]


@pytest.fixture
def account(account: dict[str, str]) -> dict[str, str]:
    """alice, without what only a job of its own can ask for."""
    return {name: value for name, value in account.items() if name != "JOB_CUSTOM_CONFIG"}


async def pods_of(node: Node, names: Sequence[str], image: str) -> list[PodOnNode]:
    await node.kubelet.pull(image)
    return [await node.kubelet.run_pod_sandbox(name, handler=HANDLER, annotations=MODEL) for name in names]


async def created(
    node: Node, pod: PodOnNode, image: str, account: dict[str, str], command: Sequence[str] = ENDS
) -> list[str]:
    create = partial(node.kubelet.create_container, pod, image, command=command, env=account)
    return [await as_the_kubelet_does(partial(create, name=name)) for name in NAMES]


def jobs_of(bed: Testbed, pod: PodOnNode) -> list[str]:
    """All jobs that slurmctld knows of a pod, whose name is in their comment."""
    listed = bed.cluster.run("login", ["squeue", "-h", "-t", "all", "-o", "%i %k"], check=True).stdout.splitlines()
    return [line for line in listed if line.endswith(f" default/{pod.config.metadata.name}/allocation")]


async def assert_both_ran_once_in_one_job(bed: Testbed, node: Node, pod: PodOnNode, containers: Sequence[str]) -> None:
    for name, container_id in zip(NAMES, containers, strict=True):
        status = await node.kubelet.wait_until_exited(container_id)
        assert (status.exit_code, status.reason) == (5, "Error"), pod.config.metadata.name
        expected = b"".join(b"%d\n" % number for number in range(1, 1001))
        await eventually(
            lambda: printed(pod, name)[b"stdout"] == expected,  # noqa: B023
            lambda: f"{pod.config.metadata.name}: {printed(pod, name)}",  # noqa: B023
        )
    assert len(jobs_of(bed, pod)) == 1, pod.config.metadata.name


async def test_killed_while_an_allocation_is_staged(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    pods = await pods_of(node, ["-".join(step) for step in CREATION], image)
    with Gate(bed).of("mkdir") as gate:
        for pod, (program, when) in zip(pods, CREATION, strict=True):
            gate.close(program, when, pod.sandbox_id)
        create = partial(node.kubelet.create_container, image=image, name=NAMES[0], command=ENDS, env=account)
        await kill_when_held_up(node, gate, [create(pod) for pod in pods])
        containers = [await created(node, pod, image, account) for pod in pods]
    for pod, both in zip(pods, containers, strict=True):
        for container_id in both:
            await node.kubelet.start(container_id)
        await assert_both_ran_once_in_one_job(bed, node, pod, both)


@pytest.mark.parametrize("of", ["the job", "a step"])
async def test_killed_at_each_step_of_a_start(
    bed: Testbed, node: Node, image: str, account: dict[str, str], of: str
) -> None:
    steps = SUBMIT if of == "the job" else STEP
    pods = await pods_of(node, ["-".join((*step, *of.split())) for step in steps], image)
    containers = [await created(node, pod, image, account) for pod in pods]
    if of == "a step":
        for one, _ in containers:
            await node.kubelet.start(one)
    with Gate(bed).of("flock", "sbatch", "mv") as gate:
        starts: list[Coroutine[object, object, object]] = []
        for pod, (one, two), (program, when) in zip(pods, containers, steps, strict=True):
            gate.close(program, when, pod.sandbox_id if of == "the job" else two)
            starts += (
                [node.kubelet.start(one), node.kubelet.start(two)] if of == "the job" else [node.kubelet.start(two)]
            )
        await kill_when_held_up(node, gate, starts)
        for both in containers:
            await asyncio.gather(*(as_the_kubelet_does(partial(start_again, node, one)) for one in both))
    for pod, both in zip(pods, containers, strict=True):
        await assert_both_ran_once_in_one_job(bed, node, pod, both)


async def test_killed_while_a_container_is_stopped_and_while_the_pod_is(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    pods = await pods_of(node, ["stop-before", "stop-after", "pod-before", "pod-after"], image)
    containers = [await created(node, pod, image, account, STAYS) for pod in pods]
    for pod, both in zip(pods, containers, strict=True):
        for name, container_id in zip(NAMES, both, strict=True):
            await node.kubelet.start(container_id)
            await node.kubelet.wait_for_log(pod, "up", name=name)

    def stop_pod(pod: PodOnNode) -> Coroutine[object, object, object]:
        request = cri.StopPodSandboxRequest(pod_sandbox_id=pod.sandbox_id)
        return node.kubelet.call(request, cri.StopPodSandboxResponse)

    async def step_is_known(container_id: str) -> None:
        while not (await details_of(node.kubelet, container_id)).get("step_id"):
            await asyncio.sleep(0.1)

    with Gate(bed).of("mv", "scancel") as gate:
        calls: list[Coroutine[object, object, object]] = []
        for pod, (one, _) in zip(pods, containers, strict=True):
            await asyncio.wait_for(step_is_known(one), 60)
            told = await details_of(node.kubelet, one)
            what, _, when = pod.config.metadata.name.partition("-")
            if what == "stop":
                gate.close("mv", when, one)
                calls.append(node.kubelet.stop(one, 30))
            else:
                gate.close("scancel", when, f"-b -s USR1 {told['job_id']}")
                calls.append(stop_pod(pod))
        await kill_when_held_up(node, gate, calls)
    for pod, (one, two) in zip(pods, containers, strict=True):
        if pod.config.metadata.name.startswith("stop"):
            await as_the_kubelet_does(partial(node.kubelet.stop, one, 30))
            assert (await node.kubelet.status(one)).exit_code == 6
            assert (await node.kubelet.status(two)).state == cri.CONTAINER_RUNNING
        await as_the_kubelet_does(partial(stop_pod, pod))
        for container_id in (one, two):
            assert (await node.kubelet.status(container_id)).state == cri.CONTAINER_EXITED
        states = bed.cluster.run("login", ["squeue", "-h", "-o", "%k"], check=True).stdout
        assert f"/{pod.config.metadata.name}/" not in states
