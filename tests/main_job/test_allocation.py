"""Pods that are one allocation each, in which their containers are steps, through the proxy and in the real cluster."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet, Proxy, mount
from kubelet.client import PodOnNode, read_log
from testbed import Testbed
from testbed.rest import rest_settings

from main_job.conftest import account_of
from main_job.test_kill import start_as_the_kubelet_does
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

MODEL = {"slurm.multicri.io/pod-model": "allocation-per-pod", "slurm.multicri.io/mem": "200M"}
STAYS = ["sh", "-c", "trap 'echo bye; exit 6' TERM; echo up; while :; do sleep 0.1; done"]


BOTH_WAYS = pytest.mark.parametrize("way", ["ssh", "rest"], indirect=True)
"""For tests that hold whichever way leads to the cluster."""


@pytest.fixture
def way(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "ssh")


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path, way: str) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    leads = rest_settings(bed, tmp_path) if way == "rest" else {"known_hosts": str(bed.cluster.known_hosts)}
    slurm = {**leads, "kubelet_directory": str(tmp_path / "kubelet"), "poll_interval_s": 1}
    endpoints = {"default": str(bed.node.socket)}
    config.write_text(json.dumps({"remote_runtime_endpoints": endpoints, "slurm": slurm}))
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.fixture
def account(bed: Testbed, way: str) -> Mapping[str, str]:
    """alice; over REST the settings say so."""
    return {} if way == "rest" else account_of(bed, "alice")


@pytest.fixture
async def nothing_left(bed: Testbed, kubelet: Kubelet) -> AsyncIterator[None]:
    """Removes the pods, and then looks for what they made: jobs, directories, processes."""
    yield
    for sandbox in await kubelet.sandboxes():
        if sandbox.runtime_handler == "multicri":
            await kubelet.remove_sandbox(sandbox.id)
    await until(lambda: not queue(bed, "%i"), "jobs that live")
    for user in ("alice", "bob"):
        kept = bed.cluster.user(user).home.glob("multi-cri/*")
        assert [path.name for path in kept if path.name != "images"] == []
        for host in ("cn1", "cn2"):
            await until(lambda: not _processes(bed, host, user), f"processes of {user} on {host}")  # type: ignore[arg-type]  # noqa: B023


def _processes(bed: Testbed, host: str, user: str) -> list[str]:
    lines = bed.cluster.run(host, ["ps", "-u", user, "-o", "stat=,args="]).stdout.splitlines()  # type: ignore[arg-type]
    return [line for line in lines if not line.startswith("Z")]


@pytest.fixture
async def pod(kubelet: Kubelet, image: str, nothing_left: None) -> PodOnNode:
    await kubelet.pull(image)
    return await kubelet.run_pod_sandbox("together", handler="multicri", annotations=MODEL)


async def until(holds: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(holds):
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise TimeoutError(what) from error


def queue(bed: Testbed, about: str, *which: str) -> list[str]:
    """A line of squeue for each job that lives, or of those that are meant."""
    return bed.cluster.run("login", ["squeue", "-h", "-o", about, *which], check=True).stdout.splitlines()


async def job_of(kubelet: Kubelet, container_id: str) -> Mapping[str, str]:
    found: Mapping[str, str] = json.loads((await kubelet.details(container_id))["info"])
    return found


async def running(kubelet: Kubelet, container_id: str) -> Mapping[str, str]:
    """What is told of a container once its step is known."""
    async with asyncio.timeout(60):
        while not (told := await job_of(kubelet, container_id)).get("step_id"):
            await asyncio.sleep(0.1)
    return told


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_an_init_container_and_two_containers_share_a_job_its_localhost_and_an_emptydir(
    bed: Testbed, kubelet: Kubelet, image: str, pod: PodOnNode, tmp_path: Path, user: str
) -> None:
    host_path = tmp_path / "kubelet/pods" / pod.config.metadata.uid / "volumes/kubernetes.io~empty-dir/scratch"
    host_path.mkdir(parents=True)
    work, env = [mount(host_path, "/scratch")], account_of(bed, user)
    init = await kubelet.create_container(
        pod, image, name="init", command=["sh", "-c", "echo from init > /scratch/file; hostname"], env=env, mounts=work
    )
    await kubelet.start(init)
    status = await kubelet.wait_until_exited(init)
    assert (status.exit_code, status.reason) == (0, "Completed")
    listen = "cat /scratch/file; echo up; echo served | nc -l -p 18080"
    server = await kubelet.create_container(
        pod, image, name="server", command=["sh", "-c", listen], env=env, mounts=work
    )
    await kubelet.start(server)
    await kubelet.wait_for_log(pod, "up\n", name="server")
    ask = "until nc 127.0.0.1 18080 < /dev/null | grep served; do sleep 0.1; done; hostname"
    client = await kubelet.create_container(pod, image, name="client", command=["sh", "-c", ask], env=env)
    await kubelet.start(client)
    assert (await kubelet.wait_until_exited(client)).exit_code == 0
    assert (await kubelet.wait_until_exited(server)).exit_code == 0
    await kubelet.wait_for_log(pod, "cn", name="client")
    assert read_log(pod, name="server") == ["from init\n", "up\n"]
    assert read_log(pod, name="client") == ["served\n", *read_log(pod, name="init")]
    told = [await job_of(kubelet, container_id) for container_id in (init, server, client)]
    assert len({one["job_id"] for one in told}) == 1
    assert len({one["step_id"] for one in told}) == 3
    assert queue(bed, "%T %D %m") == ["RUNNING 1 200M"]


@BOTH_WAYS
async def test_a_restart_and_the_stop_of_one_container_leave_the_job_and_the_others_alone(
    bed: Testbed, kubelet: Kubelet, image: str, pod: PodOnNode, account: Mapping[str, str]
) -> None:
    other = await kubelet.create_container(pod, image, name="other", command=STAYS, env=account)
    await kubelet.start(other)
    first = await kubelet.create_container(pod, image, command=["sh", "-c", "exit 3"], env=account)
    await kubelet.start(first)
    status = await kubelet.wait_until_exited(first)
    assert (status.exit_code, status.reason) == (3, "Error")
    again = await kubelet.create_container(pod, image, attempt=1, command=STAYS, env=account)
    await kubelet.start(again)
    job = await running(kubelet, again)
    assert job["job_id"] == (await job_of(kubelet, first))["job_id"]
    await kubelet.remove(first)
    await until(lambda: read_log(pod, attempt=1) == ["up\n"], "its handler")
    await kubelet.stop(again, 30)
    assert (await kubelet.status(again)).exit_code == 6
    deaf = await kubelet.create_container(
        pod, image, attempt=2, command=["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"], env=account
    )
    await kubelet.start(deaf)
    await until(lambda: read_log(pod, attempt=2) == ["deaf\n"], "that it hears no more")
    await kubelet.stop(deaf, 1)
    assert (await kubelet.status(deaf)).exit_code == 137
    assert (await kubelet.status(other)).state == cri.CONTAINER_RUNNING
    assert queue(bed, "%i %T") == [f"{job['job_id']} RUNNING"]


@BOTH_WAYS
async def test_a_step_whose_script_does_not_answer_is_ended_by_slurm_and_the_others_go_on(
    bed: Testbed, kubelet: Kubelet, image: str, pod: PodOnNode, account: Mapping[str, str]
) -> None:
    deaf, other = [
        await kubelet.create_container(pod, image, name=name, command=STAYS, env=account) for name in ("deaf", "other")
    ]
    for container_id in (deaf, other):
        await kubelet.start(container_id)
        job = await running(kubelet, container_id)
    [pid] = bed.cluster.user("alice").home.glob(f"multi-cri/{pod.sandbox_id}/{deaf}/pid")
    [node] = queue(bed, "%N", "-j", job["job_id"])
    bed.cluster.run(node, ["kill", "-STOP", pid.read_text().strip()], check=True)  # type: ignore[arg-type]
    await kubelet.stop(deaf, 0)
    assert (await kubelet.status(deaf)).state == cri.CONTAINER_EXITED
    assert (await kubelet.status(other)).state == cri.CONTAINER_RUNNING


@BOTH_WAYS
async def test_an_allocation_ends_with_its_pod_although_its_containers_are_kept(
    bed: Testbed, kubelet: Kubelet, image: str, pod: PodOnNode, account: Mapping[str, str]
) -> None:
    done = await kubelet.create_container(pod, image, name="done", command=["true"], env=account)
    stays = await kubelet.create_container(pod, image, name="stays", command=STAYS, env=account)
    await kubelet.start(done)
    await kubelet.start(stays)
    assert (await kubelet.wait_until_exited(done)).exit_code == 0
    await kubelet.wait_for_log(pod, "up\n", name="stays")
    await kubelet.call(cri.StopPodSandboxRequest(pod_sandbox_id=pod.sandbox_id), cri.StopPodSandboxResponse)
    assert (await kubelet.status(stays)).exit_code == 137
    assert (await kubelet.status(done)).exit_code == 0
    await until(lambda: not queue(bed, "%i"), "the allocation")
    assert read_log(pod, name="stays") == ["up\n"]


async def test_exec_goes_into_the_container_that_is_meant(
    kubelet: Kubelet, image: str, pod: PodOnNode, account: Mapping[str, str]
) -> None:
    for name in ("one", "two"):
        container = await kubelet.create_container(pod, image, name=name, command=STAYS, env={**account, "WHO": name})
        await kubelet.start(container)
        await running(kubelet, container)
        request = cri.ExecSyncRequest(container_id=container, cmd=["sh", "-c", "echo $WHO"], timeout=30)
        answer = await kubelet.call(request, cri.ExecSyncResponse)
        assert (answer.exit_code, answer.stdout) == (0, f"{name}\n".encode()), answer


@BOTH_WAYS
async def test_killed_in_between_every_container_runs_once_in_one_job(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, image: str, pod: PodOnNode, account: Mapping[str, str]
) -> None:
    script = "for i in $(seq 0 19); do echo line $i; sleep 0.1; done; exit 5"
    names = ("one", "two")
    containers = [
        await kubelet.create_container(pod, image, name=name, command=["sh", "-c", script], env=account)
        for name in names
    ]
    for container_id in containers:
        for _ in range(4):
            starting = asyncio.ensure_future(kubelet.start(container_id))
            await asyncio.wait({starting}, timeout=0.3)
            proxy.kill()
            await asyncio.wait({starting})
            assert starting.exception() is None or isinstance(starting.exception(), grpc.aio.AioRpcError)
            await proxy.start()
        await start_as_the_kubelet_does(kubelet, container_id)
    for name, container_id in zip(names, containers, strict=True):
        status = await kubelet.wait_until_exited(container_id)
        assert (status.exit_code, status.reason) == (5, "Error")
        await kubelet.wait_for_log(pod, "line 19\n", name=name)
        assert read_log(pod, name=name) == [f"line {number}\n" for number in range(20)]
    assert len({(await job_of(kubelet, one))["job_id"] for one in containers}) == 1
    assert len(queue(bed, "%i")) == 1


async def test_a_proxy_that_was_away_finds_what_has_ended_and_what_goes_on(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, image: str, pod: PodOnNode, account: Mapping[str, str]
) -> None:
    ends = await kubelet.create_container(
        pod, image, name="ends", command=["sh", "-c", "echo up; sleep 2; exit 4"], env=account
    )
    stays = await kubelet.create_container(pod, image, name="stays", command=STAYS, env=account)
    await kubelet.start(ends)
    await kubelet.start(stays)
    await kubelet.wait_for_log(pod, "up\n", name="ends")
    await kubelet.wait_for_log(pod, "up\n", name="stays")
    proxy.kill()
    home = bed.cluster.user("alice").home
    await until(lambda: list(home.glob(f"multi-cri/{pod.sandbox_id}/{ends}/ended")), "the end of one")
    await proxy.start()
    assert (await kubelet.wait_until_exited(ends)).exit_code == 4
    assert (await kubelet.status(stays)).state == cri.CONTAINER_RUNNING
    await kubelet.stop(stays, 30)
    assert (await kubelet.status(stays)).exit_code == 6


@BOTH_WAYS
async def test_the_end_of_an_allocation_is_the_end_of_its_containers_and_the_next_one_gets_a_new_allocation(
    bed: Testbed, kubelet: Kubelet, image: str, pod: PodOnNode, account: Mapping[str, str]
) -> None:
    containers = []
    for name, command in {"hears": STAYS, "dies": ["sleep", "600"]}.items():
        containers.append(await kubelet.create_container(pod, image, name=name, command=command, env=account))
        await kubelet.start(containers[-1])
        job = await running(kubelet, containers[-1])
    bed.cluster.run("login", ["scancel", job["job_id"]], check=True)
    for container_id in containers:
        status = await kubelet.wait_until_exited(container_id)
        assert status.reason == "Cancelled", status
        # Slurm's TERM is for all processes of the job where it tracks them by their parents: Apptainer's own, too.
        assert status.exit_code in {6, 143}
    again = await kubelet.create_container(pod, image, name="again", command=STAYS, env=account)
    await kubelet.start(again)
    assert (await running(kubelet, again))["job_id"] != job["job_id"]


@BOTH_WAYS
async def test_a_pending_allocation_says_why_and_its_containers_can_be_stopped_one_by_one(
    bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str], nothing_left: None
) -> None:
    await kubelet.pull(image)
    annotations = {**MODEL, "slurm.multicri.io/begin": "now+1hour"}
    pod = await kubelet.run_pod_sandbox("later", handler="multicri", annotations=annotations)
    one, two = [
        await kubelet.create_container(pod, image, name=name, command=["true"], env=account) for name in ("one", "two")
    ]
    await kubelet.start(one)
    await kubelet.start(two)
    await kubelet.wait_for_log(pod, "BeginTime", name="one")
    status = await kubelet.status(one)
    assert (status.state, status.reason) == (cri.CONTAINER_RUNNING, "BeginTime")
    await kubelet.stop(one, 30)
    status = await kubelet.status(one)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 137, "Cancelled")
    assert (await kubelet.status(two)).state == cri.CONTAINER_RUNNING
    [job] = queue(bed, "%i %T")
    job_id = job.removesuffix(" PENDING")
    bed.cluster.run("login", ["scontrol", "update", f"JobId={job_id}", "StartTime=now"], check=True)
    assert (await kubelet.wait_until_exited(two)).exit_code == 0
    assert not list(bed.cluster.user("alice").home.glob(f"multi-cri/{pod.sandbox_id}/{one}/claim"))


async def test_an_allocation_has_what_the_kubelet_says_that_the_pod_needs(
    bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str], nothing_left: None
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox(
        "sized", handler="multicri", annotations={"slurm.multicri.io/pod-model": "allocation-per-pod"}
    )
    pod.config.linux.resources.CopyFrom(cri.LinuxContainerResources(cpu_shares=600, memory_limit_in_bytes=160 << 20))
    container = await kubelet.create_container(
        pod,
        image,
        command=["true"],
        env=account,
        resources=cri.LinuxContainerResources(memory_limit_in_bytes=100 << 20),
    )
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    assert queue(bed, "%m %C") == ["160M 1"]


async def test_an_allocation_that_somebody_requeues_ends_and_no_container_runs_twice(
    bed: Testbed, kubelet: Kubelet, image: str, pod: PodOnNode, account: Mapping[str, str]
) -> None:
    container = await kubelet.create_container(pod, image, command=STAYS, env=account)
    await kubelet.start(container)
    job = await running(kubelet, container)
    await kubelet.wait_for_log(pod, "up\n")
    bed.cluster.run("login", ["scontrol", "update", f"JobId={job['job_id']}", "Requeue=1"], check=True)
    bed.cluster.run("login", ["scontrol", "requeue", job["job_id"]], check=True)
    assert (await kubelet.wait_until_exited(container)).reason == "Requeued"
    assert read_log(pod, stream="stdout").count("up\n") == 1


async def test_containers_of_two_accounts_cannot_share_an_allocation(
    bed: Testbed, kubelet: Kubelet, image: str, pod: PodOnNode
) -> None:
    await kubelet.create_container(pod, image, name="one", env=account_of(bed, "alice"))
    with pytest.raises(grpc.aio.AioRpcError, match="give all containers of the pod the same") as error:
        await kubelet.create_container(pod, image, name="two", env=account_of(bed, "bob"))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_only_a_job_of_its_own_can_ask_for_is_refused(
    kubelet: Kubelet, image: str, pod: PodOnNode, account: Mapping[str, str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"JOB_QUEUE: .* annotation slurm.multicri.io/partition"):
        await kubelet.create_container(pod, image, env={**account, "JOB_QUEUE": "batch"})
