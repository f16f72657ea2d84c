"""A multicri pod as a real Slurm job, through the proxy."""

import base64
import time
from collections.abc import Mapping

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet
from kubelet.client import read_log
from testbed import Testbed

from main_job.conftest import account_of, jobs_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

HOSTILE = [
    "plain",
    "",
    " two  words ",
    "'single' \"double\" `id` $(id) ${HOME} $HOME ; id & | > /tmp/x < y",
    "line one\nline two\n#SBATCH --time=1\n",
    "\\ \\n \t tab \x01\x7f",
    "-n --flag=1",
    "../../etc/passwd",
    "näh 漢字 🚀",
    "!history %j %A {{x}} *?[a-z]",
]


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_pod_runs_as_a_job_from_pull_to_removal(bed: Testbed, kubelet: Kubelet, image: str, user: str) -> None:
    before = time.time_ns()
    image_id = await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("job", handler="multicri")
    script = 'echo "host $(hostname) FOO=$FOO"; echo to stderr >&2; exit 3'
    container = await kubelet.create_container(
        pod, image_id, command=["sh", "-c", script], env={**account_of(bed, user), "JOB_QUEUE": "batch"}
    )
    assert (await kubelet.status(container)).state == cri.CONTAINER_CREATED
    await kubelet.start(container)
    status = await kubelet.wait_until_exited(container)
    assert (status.exit_code, status.reason) == (3, "Error")
    assert before < status.created_at <= status.started_at <= status.finished_at < time.time_ns()
    await kubelet.wait_for_log(pod, "to stderr")
    [stdout] = read_log(pod, stream="stdout")
    assert stdout in ("host cn1 FOO=fromimage\n", "host cn2 FOO=fromimage\n")
    assert read_log(pod, stream="stderr") == ["to stderr\n"]
    assert len(jobs_of(bed, container)) == 1

    home = bed.cluster.user(user).home
    assert list(home.glob(f"multi-cri/{pod.sandbox_id}/{container}/*"))
    await kubelet.remove(container)
    await kubelet.remove_sandbox(pod.sandbox_id)
    assert not list(home.glob(f"multi-cri/{pod.sandbox_id}*"))


async def test_output_is_in_the_log_while_the_job_runs(
    bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    pod = await kubelet.run_pod_sandbox("live", handler="multicri")
    await kubelet.pull(image)
    script = "echo early; sleep 600"
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script], env=account)
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "early\n")
    assert (await kubelet.status(container)).state == cri.CONTAINER_RUNNING
    await kubelet.stop(container, grace_period_s=0)
    status = await kubelet.status(container)
    assert (status.state, status.exit_code) == (cri.CONTAINER_EXITED, 137)


async def test_stop_gives_the_container_its_grace_and_takes_its_own_exit_code(
    bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    pod = await kubelet.run_pod_sandbox("graceful", handler="multicri")
    await kubelet.pull(image)
    script = "trap 'echo bye; exit 21' TERM; echo ready; while :; do sleep 0.1; done"
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script], env=account)
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "ready\n")
    await kubelet.stop(container, grace_period_s=30)
    assert (await kubelet.status(container)).exit_code == 21
    await kubelet.wait_for_log(pod, "bye\n")


async def test_a_pods_annotations_and_resources_are_its_jobs_and_its_variables_win(
    bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    prefix = "slurm.multicri.io/"
    good = {f"{prefix}partition": "batch", f"{prefix}time": "00:07:00", f"{prefix}nodelist": "cn2"}
    bad = {f"{prefix}constraint": "", f"{prefix}array": "1-9"}
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("asking", handler="multicri", annotations=bad)
    with pytest.raises(grpc.aio.AioRpcError, match=r"array: is not allowed: a cont.*constraint='': must be") as raised:
        await kubelet.create_container(pod, image, command=["true"], env=account)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    pod = await kubelet.run_pod_sandbox("asking", handler="multicri", annotations=good)
    container = await kubelet.create_container(
        pod,
        image,
        command=["sleep", "600"],
        env={**account, "JOB_QUEUE": "gpu"},
        resources=cri.LinuxContainerResources(cpu_period=100_000, cpu_quota=150_000, memory_limit_in_bytes=200 << 20),
    )
    await kubelet.start(container)
    name = f"JobName=multicri-{container[:32]}"
    jobs = bed.cluster.run("login", ["scontrol", "-o", "show", "job"], check=True).stdout.splitlines()
    [shown] = [job for job in jobs if name in job.split()]
    for fact in ("Partition=gpu", "TimeLimit=00:07:00", "ReqNodeList=cn2", "CPUs/Task=2", "MinMemoryNode=200M"):
        assert fact in shown.split()


async def test_a_job_that_waits_in_the_queue_is_running_for_cri_and_can_be_stopped(
    bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    bed.cluster.run("login", ["scontrol", "update", "partitionname=gpu", "state=down"], check=True)
    try:
        pod = await kubelet.run_pod_sandbox("queued", handler="multicri")
        await kubelet.pull(image)
        env = {**account, "JOB_QUEUE": "gpu"}
        container = await kubelet.create_container(pod, image, command=["true"], env=env)
        await kubelet.start(container)
        assert (await kubelet.status(container)).state == cri.CONTAINER_RUNNING
        assert jobs_of(bed, container) == ["PENDING"]
        await kubelet.stop(container, grace_period_s=30)
        assert (await kubelet.status(container)).state == cri.CONTAINER_EXITED
        assert jobs_of(bed, container) == ["CANCELLED"]
    finally:
        bed.cluster.run("login", ["scontrol", "update", "partitionname=gpu", "state=up"], check=True)


async def test_a_hostile_pod_gets_exactly_its_text_and_the_login_shell_runs_none_of_it(
    bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    pod = await kubelet.run_pod_sandbox("hostile", handler="multicri")
    await kubelet.pull(image)
    script = (
        'for word in "$@"; do printf "%s" "$word" | base64 | tr -d "\\n"; echo; done; env -0 | base64 | tr -d "\\n"'
    )
    env = {f"TEXT_{number}": text for number, text in enumerate(HOSTILE)}
    container = await kubelet.create_container(
        pod, image, command=["sh", "-c", script, "sh"], args=HOSTILE, env={**account, **env}
    )
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    await kubelet.wait_for_log(pod, "")
    *words, environment = (decoded(line) for line in read_log(pod, stream="stdout"))
    assert words == HOSTILE
    seen = dict(entry.split("=", 1) for entry in environment.split("\0") if entry)
    assert {name: seen.get(name) for name in env} == env
    assert not [name for name in seen if name.startswith("CLUSTER_")]


def decoded(line: str) -> str:
    return base64.b64decode(line).decode("utf-8", "surrogateescape")


async def test_what_cannot_be_passed_on_is_refused_by_name_before_anything_is_submitted(
    bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    pod = await kubelet.run_pod_sandbox("refused", handler="multicri")
    await kubelet.pull(image)
    refused: list[tuple[list[str], dict[str, str], str]] = [
        (["true"], {"BIG": "x" * (1 << 20)}, "BIG"),
        (["sh", "x" * (1 << 20)], {}, "131071|argument|command"),
        (["true"], {"NUL": "a\0b"}, "NUL"),
        (["true"], {"JOB_GPU": "gpu:1\n#SBATCH --uid=0"}, "JOB_GPU"),
        (["true"], {"JOB_NUM_NODES": "1; id"}, "JOB_NUM_NODES"),
        (["true"], {"JOB_CUSTOM_CONFIG": "#SBATCH --output=/etc/passwd"}, "output"),
        (["true"], {"CLUSTER_PORT": "0"}, "CLUSTER_PORT"),
    ]
    for command, env, message in refused:
        with pytest.raises(grpc.aio.AioRpcError, match=message) as raised:
            await kubelet.create_container(pod, image, command=command, env={**account, **env})
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await kubelet.containers(pod_sandbox_id=pod.sandbox_id) == []
    assert list(bed.cluster.user("alice").home.glob(f"multi-cri/{pod.sandbox_id}*")) == []


async def test_a_name_that_leads_out_of_the_pods_log_directory_is_refused(
    kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    pod = await kubelet.run_pod_sandbox("escape", handler="multicri")
    await kubelet.pull(image)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await kubelet.create_container(pod, image, name="../../escaped", command=["true"], env=account)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_wrong_password_is_told_by_the_variables_name(
    kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    pod = await kubelet.run_pod_sandbox("stranger", handler="multicri")
    await kubelet.pull(image)
    env = {**account, "CLUSTER_PASSWORD": "not-it"}
    with pytest.raises(grpc.aio.AioRpcError, match="CLUSTER_PASSWORD") as raised:
        await kubelet.create_container(pod, image, command=["true"], env=env)
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "not-it" not in str(raised.value)
