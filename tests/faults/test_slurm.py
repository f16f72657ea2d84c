"""A Slurm that is silent, loses a node, forgets a job, or has it ended by an admin; a home that is full."""

import asyncio
import os
import shutil

import grpc
import grpc.aio
import pytest
from testbed import Testbed

from faults.breaking import forget_all_jobs, lost_node, small_home, without
from faults.conftest import HANDLER, MakeNode, Node
from faults.looking import agree, details_of, directory_of, eventually, jobs_of, jobs_that_live, printed
from faults.test_ssh import COUNTS, begin, counted, goes_on
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

ENDS = ["sh", "-c", "echo last; exit 5"]


async def test_slurmctld_is_down_for_a_while(
    bed: Testbed, nodes: MakeNode, image: str, account: dict[str, str]
) -> None:
    node = await nodes(command_timeout_s=60)
    pod, container_id = await begin(node.kubelet, "stays", image, account, COUNTS)
    late = await node.kubelet.run_pod_sandbox("late", handler=HANDLER)
    starting = await node.kubelet.create_container(late, image, command=ENDS, env=account)
    with without(bed, "slurmctld"):
        calls = (node.kubelet.stop(container_id, 5), node.kubelet.start(starting))
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "Slurm does not answer" in str(error.details())
        assert (await node.kubelet.status(container_id)).state == cri.CONTAINER_RUNNING
        await goes_on(pod)
    await node.kubelet.start(starting)
    assert (await node.kubelet.wait_until_exited(starting)).exit_code == 5
    assert len(jobs_of(bed, starting)) == 1
    await agree(bed, node.kubelet)
    await node.kubelet.stop(container_id, 30)
    assert (await node.kubelet.status(container_id)).exit_code == 6


async def test_slurm_has_forgotten_jobs_that_ended_while_the_proxy_was_away(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    """Without accounting, nobody knows them any more but their own files."""
    await node.kubelet.pull(image)
    told, lost = [await node.kubelet.run_pod_sandbox(name, handler=HANDLER) for name in ("told", "lost")]
    command = ["sh", "-c", "echo last; sleep 3; exit 5"]
    of = {
        pod.sandbox_id: await node.kubelet.create_container(pod, image, command=command, env=account)
        for pod in (told, lost)
    }
    for container_id in of.values():
        await node.kubelet.start(container_id)
    node.proxy.kill()
    await eventually(lambda: not jobs_that_live(bed), lambda: f"{jobs_that_live(bed)}")
    for name in ("exit", "claim"):
        path = directory_of(bed, lost, of[lost.sandbox_id]) / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    forget_all_jobs(bed)
    await node.proxy.start()
    status = await node.kubelet.wait_until_exited(of[told.sandbox_id])
    assert (status.exit_code, status.reason) == (5, "Error")
    status = await node.kubelet.wait_until_exited(of[lost.sandbox_id])
    assert (status.exit_code, status.reason) == (255, "JobLost")
    assert printed(told)[b"stdout"] == printed(lost)[b"stdout"] == b"last\n"


async def test_a_node_is_lost(bed: Testbed, node: Node, image: str, account: dict[str, str]) -> None:
    there = account | {"JOB_CUSTOM_CONFIG": "--mem=10M --nodelist=cn1"}
    elsewhere = account | {"JOB_CUSTOM_CONFIG": "--mem=10M --nodelist=cn2"}
    _, lost = await begin(node.kubelet, "lost", image, there, COUNTS)
    stays, _ = await begin(node.kubelet, "stays", image, elsewhere, COUNTS)
    with lost_node(bed, "cn1"):
        status = await node.kubelet.wait_until_exited(lost)
        assert (status.exit_code, status.reason) == (255, "NodeFailure")
        await goes_on(stays)
        await agree(bed, node.kubelet)


@pytest.mark.parametrize("option", ["--mem=10M", "--mem=10M --begin=now+1hour"])
async def test_an_admin_cancels_a_job(
    bed: Testbed, node: Node, image: str, account: dict[str, str], option: str
) -> None:
    await node.kubelet.pull(image)
    pod = await node.kubelet.run_pod_sandbox("cancelled", handler=HANDLER)
    env = account | {"JOB_CUSTOM_CONFIG": option}
    container_id = await node.kubelet.create_container(pod, image, command=["sleep", "1000"], env=env)
    await node.kubelet.start(container_id)
    bed.cluster.run("login", ["scancel", (await details_of(node.kubelet, container_id))["job_id"]], check=True)
    status = await node.kubelet.wait_until_exited(container_id)
    assert (status.exit_code, status.reason) in {(137, "Cancelled"), (143, "Cancelled")}
    await agree(bed, node.kubelet)


async def test_a_full_home_refuses_a_container_and_says_why(
    bed: Testbed, nodes: MakeNode, image: str, account: dict[str, str]
) -> None:
    node = await nodes(more="  mount_path: small\n  image_remote_mount: multi-cri/images\n")
    await node.kubelet.pull(image)
    pod = await node.kubelet.run_pod_sandbox("full", handler=HANDLER)
    big = {f"BIG_{number}": "x" * 100_000 for number in range(8)}
    with small_home(bed, "/home/alice/small", 500_000):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.kubelet.create_container(pod, image, command=ENDS, env=account | big)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "cannot be written" in str(caught.value.details())
        assert await node.kubelet.containers(pod_sandbox_id=pod.sandbox_id) == []
        await eventually(lambda: not node.records()[1:], lambda: f"{node.records()}")
        assert bed.cluster.run("login", ["find", "/home/alice/small", "-type", "f"]).stdout == ""


async def test_a_job_that_cannot_claim_its_directory_has_failed(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    """A quota that is full when the job begins: it has not run, and must not seem to have."""
    await node.kubelet.pull(image)
    pod = await node.kubelet.run_pod_sandbox("unclaimed", handler=HANDLER)
    env = account | {"JOB_CUSTOM_CONFIG": "--mem=10M --begin=now+1hour"}
    container_id = await node.kubelet.create_container(pod, image, command=ENDS, env=env)
    await node.kubelet.start(container_id)
    directory = directory_of(bed, pod, container_id)
    (directory / "slurm.out").touch()
    os.chown(directory / "slurm.out", bed.cluster.user("alice").uid, -1)
    directory.chmod(0o500)
    (job,) = jobs_of(bed, container_id)
    bed.cluster.run("login", ["scontrol", "update", f"jobid={job}", "starttime=now"], check=True)
    status = await node.kubelet.wait_until_exited(container_id)
    assert (status.exit_code, status.reason) == (1, "Error")
    assert "claim" in status.message
    assert counted(pod) == 0


async def test_a_home_without_locks_is_refused_by_name(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    """As on a Lustre that was mounted without them."""
    await node.kubelet.pull(image)
    pod = await node.kubelet.run_pod_sandbox("unlockable", handler=HANDLER)
    words = "flock: 9: Function not implemented"
    program = f"#!/bin/sh\n[ $1 = -w ] && [ $2 = 0 ] || exec /usr/bin/flock \"$@\"\necho '{words}' >&2\nexit 71\n"
    install = "cat > /usr/local/bin/flock && chmod 755 /usr/local/bin/flock"
    bed.cluster.run("login", ["sh", "-c", install], stdin=program, check=True)
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.kubelet.create_container(pod, image, command=ENDS, env=account)
    finally:
        bed.cluster.run("login", ["rm", "/usr/local/bin/flock"], check=True)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "flock does not work in /home/alice/multi-cri" in str(caught.value.details())
    assert words in str(caught.value.details())
