"""One multicri pod's call hangs or fails; an ordinary pod in containerd notices nothing.

These are no measurements: a call that was held up takes as long as what holds it up, which is many seconds.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import PodOnNode
from testbed import Testbed

from isolation.conftest import Ordinary
from isolation.faults import (
    HangingBuild,
    SshHost,
    cut_off,
    empty_pipe,
    fill,
    fill_pipe,
    frozen,
    locked,
    pid_of,
    real_disk,
    small_disk,
    ssh_host,
    stopped,
)
from isolation.ordinary import assert_undisturbed, live, ordinary_calls

pytestmark = pytest.mark.testbed

LIFE_S = 60.0

BEFORE, DURING = 8, 20
"""How often each of the ordinary pod's calls is answered before the fault, and while it lasts."""


Hanging = asyncio.Task[Any]
GoesOn = Callable[..., Awaitable[None]]
Begin = Callable[..., Hanging]
StagedPod = tuple[PodOnNode, str]


@pytest.fixture
async def goes_on(kubelet: Kubelet, ordinary: Ordinary) -> AsyncIterator[GoesOn]:
    """Calls of an ordinary pod, from before the test to its end. To be awaited while the fault lasts.

    Takes the calls of a multicri pod that hang all the while.
    """
    async with ordinary_calls(kubelet, ordinary.container_id) as calls:
        before = calls.new_phase()
        await calls.answered(BEFORE)
        during = calls.new_phase()

        async def goes_on(*hanging: Hanging) -> None:
            await calls.answered(DURING)
            async with asyncio.timeout(LIFE_S):
                await live(kubelet, ordinary.image)
            assert not [task.get_name() for task in hanging if task.done()]

        yield goes_on
        assert_undisturbed(before, during)
        assert not calls.failures


@pytest.fixture
async def tasks() -> AsyncIterator[Begin]:
    """Begins calls, and gives up those which hang still at the end."""
    begun: list[Hanging] = []

    def begin(name: str, call: Coroutine[Any, Any, Any]) -> Hanging:
        begun.append(asyncio.create_task(call, name=name))
        return begun[-1]

    yield begin
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)


@pytest.fixture
def build(bed: Testbed) -> Iterator[HangingBuild]:
    build = HangingBuild(bed)
    with build.installed():
        yield build


async def hanging_create(kubelet: Kubelet, build: HangingBuild, account: Mapping[str, str]) -> Any:
    """CreateContainer of an image whose build hangs."""
    image = f"multicri/docker-repository.{build.image}"
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("builds", handler="multicri")
    return await kubelet.create_container(pod, image, command=["true"], env=account)


async def staged(kubelet: Kubelet, image: str, account: Mapping[str, str], script: str = "sleep 600") -> StagedPod:
    """A multicri container that could be started."""
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("job", handler="multicri")
    return pod, await kubelet.create_container(pod, image, command=["sh", "-c", script], env=account)


async def test_while_an_image_is_built_without_end(
    kubelet: Kubelet, goes_on: GoesOn, tasks: Begin, build: HangingBuild, account: Mapping[str, str]
) -> None:
    creating = tasks("create", hanging_create(kubelet, build, account))
    await build.begun()
    await goes_on(creating)
    build.end()
    with pytest.raises(grpc.aio.AioRpcError, match="could not build"):
        await creating


async def test_while_sshd_stands_still_in_the_middle_of_a_call(
    bed: Testbed, kubelet: Kubelet, goes_on: GoesOn, tasks: Begin, build: HangingBuild, account: Mapping[str, str]
) -> None:
    """The kept connection is silent, and so is every new one."""
    creating = tasks("create", hanging_create(kubelet, build, account))
    await build.begun()
    with stopped(bed, [*build.ancestors, pid_of(bed, "sshd")]):
        second = tasks("create another", hanging_create(kubelet, build, account))
        third = tasks("create as bob", hanging_create(kubelet, build, {**account, "CLUSTER_USERNAME": "bob"}))
        await goes_on(creating, second, third)


async def test_while_slurmctld_is_silent(
    bed: Testbed, kubelet: Kubelet, goes_on: GoesOn, tasks: Begin, image: str, account: Mapping[str, str]
) -> None:
    _, container_id = await staged(kubelet, image, account)
    with stopped(bed, [pid_of(bed, "slurmctld")]):
        await goes_on(tasks("start", kubelet.start(container_id)))


async def test_while_the_login_host_is_cut_off(
    bed: Testbed, kubelet: Kubelet, goes_on: GoesOn, tasks: Begin, image: str, account: Mapping[str, str]
) -> None:
    _, container_id = await staged(kubelet, image, account)
    pod = await kubelet.run_pod_sandbox("late", handler="multicri")
    bob = {**account, "CLUSTER_USERNAME": "bob", "CLUSTER_PASSWORD": bed.cluster.user("bob").password}
    with cut_off(bed):
        starting = tasks("start", kubelet.start(container_id))
        creating = tasks("create", kubelet.create_container(pod, image, command=["true"], env=bob))
        await goes_on(starting, creating)


@pytest.mark.parametrize("says", ["says nothing", "says its name and no more", "says anything, without end"])
async def test_while_an_ssh_host_is_none(
    kubelet: Kubelet,
    goes_on: GoesOn,
    tasks: Begin,
    image: str,
    account: Mapping[str, str],
    known_hosts: Path,
    says: SshHost,
) -> None:
    await kubelet.pull(image)
    async with ssh_host(says) as port:
        _, kind, key = known_hosts.read_text().splitlines()[0].split()
        with known_hosts.open("a") as file:
            file.write(f"[127.0.0.1]:{port} {kind} {key}\n")
        env = {**account, "CLUSTER_HOST": "127.0.0.1", "CLUSTER_PORT": str(port)}
        pod = await kubelet.run_pod_sandbox("lost", handler="multicri")
        many = [
            tasks(f"create {n}", kubelet.create_container(pod, image, name=f"c{n}", command=["true"], env=env))
            for n in range(8)
        ]
        await goes_on(*(many if says != "says anything, without end" else ()))


async def test_while_the_disk_of_its_log_is_full(
    kubelet: Kubelet, goes_on: GoesOn, proxy: Proxy, image: str, account: Mapping[str, str], tmp_path: Path
) -> None:
    logs = tmp_path / "small"
    with small_disk(logs, size_bytes=256 * 1024):
        script = "seq 100; sleep 600"
        pod, container_id = await staged(Kubelet(kubelet.channel, logs), image, account, script)
        filling = fill(logs)
        await kubelet.start(container_id)
        await until(lambda: "output cannot be copied" in proxy.log.read_text())
        await goes_on()
        filling.unlink()
        await kubelet.wait_for_log(pod, "100\n")
        await kubelet.stop(container_id, grace_period_s=0)
        await kubelet.remove_sandbox(pod.sandbox_id)


async def test_while_it_writes_more_than_can_be_copied(
    kubelet: Kubelet, goes_on: GoesOn, image: str, account: Mapping[str, str]
) -> None:
    pod, container_id = await staged(kubelet, image, account, script="yes $(seq 20) | head -c 200000000; sleep 600")
    await kubelet.start(container_id)
    log = pod.log_directory / "main/0.log"
    await until(lambda: log.exists() and log.stat().st_size > 1_000_000)
    before_bytes = log.stat().st_size
    await goes_on()
    assert log.stat().st_size > before_bytes
    await kubelet.stop(container_id, grace_period_s=0)


async def test_while_the_ledgers_disk_is_slow(
    kubelet: Kubelet, goes_on: GoesOn, tasks: Begin, proxy: Proxy, image: str
) -> None:
    """SQLite itself waits for it for ten seconds, and every record waits in line."""
    with locked(proxy.directory / "resources/ledger.db"):
        running = [tasks(f"run {n}", kubelet.run_pod_sandbox(f"waits-{n}", handler="multicri")) for n in range(4)]
        await goes_on(*running, tasks("pull", kubelet.pull(image)))
    await asyncio.gather(*running)


class TestFullLedger:
    """The records' directory is a small disk of its own."""

    @pytest.fixture
    def resources(self, tmp_path: Path) -> Iterator[Path]:
        with small_disk(tmp_path / "resources", size_bytes=512 * 1024):
            yield tmp_path / "resources"

    @pytest.fixture
    async def proxy(self, resources: Path, proxy: Proxy) -> Proxy:
        return proxy

    async def test_while_the_ledgers_disk_is_full(self, kubelet: Kubelet, goes_on: GoesOn, resources: Path) -> None:
        filling = fill(resources)
        failed = []
        for number in range(400):  # what is in the write-ahead log may be written over for a while
            try:
                await kubelet.run_pod_sandbox(f"full-{number}", handler="multicri")
            except grpc.aio.AioRpcError as error:
                failed.append(error.code())
                break
        await goes_on()
        filling.unlink()
        assert failed == [grpc.StatusCode.RESOURCE_EXHAUSTED]


def dump_to(proxy: Proxy, file: Path) -> None:
    """Have the daemon that runs dump everything into a file."""
    with proxy.config.open("a") as config:
        config.write(f"dump: full:.*\ndump_format: json\ndump_file: {file}\n")
    assert proxy.process
    proxy.process.send_signal(signal.SIGHUP)


async def test_while_the_disk_of_the_dump_is_full(
    kubelet: Kubelet, goes_on: GoesOn, proxy: Proxy, tmp_path: Path
) -> None:
    disk = tmp_path / "dumps"
    dump = disk / "dump.json"
    with small_disk(disk, size_bytes=256 * 1024):
        filling = fill(disk)
        dump_to(proxy, dump)
        await until(lambda: "dump records are dropped" in proxy.log.read_text())
        await goes_on()
        filling.unlink()
        await until(lambda: dump.exists() and '"kind":"dropped"' in dump.read_text(errors="replace"))


async def test_while_the_disk_of_the_dump_stands_still(
    kubelet: Kubelet, goes_on: GoesOn, proxy: Proxy, tmp_path: Path
) -> None:
    disk = tmp_path / "dumps"
    dump = disk / "dump.json"
    with real_disk(disk, size_bytes=64 * 1024 * 1024):
        dump_to(proxy, dump)
        await until(lambda: dump.exists() and dump.stat().st_size > 0)
        with frozen(disk):
            await goes_on()
            size_bytes = dump.stat().st_size
        await until(lambda: dump.stat().st_size > size_bytes)


class TestUnreadLog:
    """The proxy's own log goes into a pipe that nobody empties, as to a journald whose disk stands still."""

    @pytest.fixture
    def pipe(self, tmp_path: Path) -> Iterator[int]:
        os.mkfifo(tmp_path / "multicri-proxy.log")
        pipe = os.open(tmp_path / "multicri-proxy.log", os.O_RDWR | os.O_NONBLOCK)
        yield pipe
        os.close(pipe)

    @pytest.fixture
    async def proxy(self, pipe: int, proxy: Proxy) -> Proxy:
        return proxy

    async def test_while_nobody_reads_the_proxys_log(self, kubelet: Kubelet, goes_on: GoesOn, pipe: int) -> None:
        fill_pipe(pipe)
        for number in range(20):  # each is told in the log
            await kubelet.pull(f"multicri/docker-repository.registry.test/test/none:{number}")
        await goes_on()
        empty_pipe(pipe)

    async def test_it_stops_although_nobody_reads_its_log(self, proxy: Proxy, pipe: int) -> None:
        fill_pipe(pipe)
        try:
            proxy.terminate()
        finally:
            empty_pipe(pipe)


async def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.05)
