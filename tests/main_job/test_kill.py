"""``kill -9`` of the proxy: both kinds of pods live on, and each job is submitted once."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import PodOnNode, read_log
from testbed import Testbed

from main_job.conftest import jobs_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

GATED_SBATCH = """\
#!/bin/sh
# Stands before the real sbatch in PATH: tells that it was called, and waits until it may go on.
gate=/home/alice/gate
[ -e $gate/closed ] || exec /usr/bin/sbatch "$@"
wait_for_gate() { touch $gate/reached; while [ -e $gate/closed ]; do sleep 0.05; done; }
case $(cat $gate/closed) in
before) wait_for_gate; exec /usr/bin/sbatch "$@" ;;
after) answer=$(/usr/bin/sbatch "$@"); status=$?; wait_for_gate; echo "$answer"; exit $status ;;
esac
"""


@dataclass
class Gate:
    """Holds up sbatch on the login host. directory: as this machine sees it."""

    directory: Path

    def close(self, when: str) -> None:
        """when: ``before`` the real sbatch is called, or ``after`` it has answered."""
        (self.directory / "reached").unlink(missing_ok=True)
        (self.directory / "closed").write_text(when)

    def open(self) -> None:
        (self.directory / "closed").unlink(missing_ok=True)

    async def reached(self) -> None:
        async with asyncio.timeout(60):
            while not (self.directory / "reached").exists():
                await asyncio.sleep(0.02)


@pytest.fixture
def gate(bed: Testbed) -> Iterator[Gate]:
    put = ["sh", "-c", "cat > /usr/local/bin/sbatch && chmod 755 /usr/local/bin/sbatch"]
    bed.cluster.run("login", put, stdin=GATED_SBATCH, check=True)
    gate = Gate(bed.cluster.user("alice").home / "gate")
    gate.directory.mkdir(exist_ok=True)
    gate.directory.chmod(0o777)
    yield gate
    gate.open()
    bed.cluster.run("login", ["rm", "/usr/local/bin/sbatch"], check=True)


@dataclass
class Pods:
    """One of each kind. The job has not been started."""

    ordinary: PodOnNode
    ordinary_container: str
    job: PodOnNode
    job_container: str


SCRIPT = "n=0; while [ $n -lt 30 ]; do echo line $n; n=$((n+1)); sleep 0.1; done; exit 5"


@pytest.fixture
async def pods(bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str]) -> AsyncIterator[Pods]:
    await kubelet.pull(bed.registry.busybox)
    await kubelet.pull(image)
    ordinary = await kubelet.run_pod_sandbox("ordinary")
    ordinary_container = await kubelet.create_container(ordinary, bed.registry.busybox, command=["sleep", "600"])
    await kubelet.start(ordinary_container)
    job = await kubelet.run_pod_sandbox("job", handler="multicri")
    job_container = await kubelet.create_container(job, image, command=["sh", "-c", SCRIPT], env=account)
    yield Pods(ordinary, ordinary_container, job, job_container)


async def start_as_the_kubelet_does(kubelet: Kubelet, container_id: str) -> None:
    """A start whose answer was lost is asked for again; one that has happened may be refused as such."""
    try:
        await kubelet.start(container_id)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def assert_one_job_ran_whole(bed: Testbed, kubelet: Kubelet, pods: Pods) -> None:
    status = await kubelet.wait_until_exited(pods.job_container)
    assert (status.exit_code, status.reason) == (5, "Error")
    await kubelet.wait_for_log(pods.job, "line 29\n")
    assert read_log(pods.job) == [f"line {number}\n" for number in range(30)]
    assert len(jobs_of(bed, pods.job_container)) == 1
    ordinary = await kubelet.status(pods.ordinary_container)
    assert ordinary.state == cri.CONTAINER_RUNNING


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("opened", ["before the restart", "during the retry"])
async def test_killed_around_sbatch(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, gate: Gate, pods: Pods, when: str, opened: str
) -> None:
    gate.close(when)
    starting = asyncio.ensure_future(kubelet.start(pods.job_container))
    await gate.reached()
    proxy.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await starting
    if opened == "before the restart":
        gate.open()
    await proxy.start()
    retry = asyncio.ensure_future(start_as_the_kubelet_does(kubelet, pods.job_container))
    with suppress(TimeoutError):  # it must not be through while sbatch still hangs
        await asyncio.wait_for(asyncio.shield(retry), 1)
    gate.open()
    await retry
    await assert_one_job_ran_whole(bed, kubelet, pods)


async def test_killed_around_sbatch_and_removed_instead_of_started_again(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, gate: Gate, pods: Pods
) -> None:
    gate.close("after")
    starting = asyncio.ensure_future(kubelet.start(pods.job_container))
    await gate.reached()
    proxy.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await starting
    gate.open()
    await proxy.start()
    await kubelet.remove(pods.job_container)
    assert jobs_of(bed, pods.job_container) in (["CANCELLED"], ["COMPLETING"], ["FAILED"])
    assert not list(bed.cluster.user("alice").home.glob(f"multi-cri/{pods.job.sandbox_id}/*"))


async def test_killed_while_the_job_runs(bed: Testbed, proxy: Proxy, kubelet: Kubelet, pods: Pods) -> None:
    await kubelet.start(pods.job_container)
    await kubelet.wait_for_log(pods.job, "line 3\n")
    proxy.kill()
    # so that it is not over when the proxy is back, however long that takes
    [job_id] = jobs_of(bed, pods.job_container, "%A")
    bed.cluster.run("login", ["scontrol", "suspend", job_id], check=True)
    await proxy.start()
    assert (await kubelet.status(pods.job_container)).state == cri.CONTAINER_RUNNING
    bed.cluster.run("login", ["scontrol", "resume", job_id], check=True)
    await assert_one_job_ran_whole(bed, kubelet, pods)


async def test_killed_again_and_again(bed: Testbed, proxy: Proxy, kubelet: Kubelet, pods: Pods) -> None:
    starting = asyncio.ensure_future(start_as_the_kubelet_does(kubelet, pods.job_container))
    for _ in range(5):
        with suppress(grpc.aio.AioRpcError, TimeoutError):
            await asyncio.wait_for(asyncio.shield(starting), 0.25)
        proxy.kill()
        with suppress(grpc.aio.AioRpcError):
            await starting
        await proxy.start()
        starting = asyncio.ensure_future(start_as_the_kubelet_does(kubelet, pods.job_container))
    await starting
    await assert_one_job_ran_whole(bed, kubelet, pods)


async def test_the_job_ends_while_the_proxy_is_away(bed: Testbed, proxy: Proxy, kubelet: Kubelet, pods: Pods) -> None:
    await kubelet.start(pods.job_container)
    proxy.kill()
    async with asyncio.timeout(60):
        while set(jobs_of(bed, pods.job_container)) - {"FAILED"}:
            await asyncio.sleep(0.2)
    await proxy.start()
    await assert_one_job_ran_whole(bed, kubelet, pods)
