"""Limits and stats by this machine's control groups: of root's daemon, and of a user's to whom some are delegated."""

import asyncio
import json
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from multicri_charliecloud import cgroup_member
from multicri_charliecloud.cgroups import UNIFIED, Cgroups
from user_proxy import UserProxy

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

MIB = 1 << 20
BUSY = ["sh", "-c", "trap 'exit 0' TERM; while :; do :; done"]


@dataclass
class DelegatedProxy(UserProxy):
    """A user's daemon in control groups that are the user's own."""

    groups: Sequence[Path] = ()

    @property
    def argv(self) -> list[str]:
        join = 'for group in $0; do echo $$ >"$group/cgroup.procs" || exit; done; exec "$@"'
        return ["sh", "-c", join, " ".join(map(str, self.groups)), *super().argv]


@pytest.fixture
def cgroups() -> Cgroups:
    found = Cgroups.found()
    if found is None:
        pytest.skip("this machine lets nobody make control groups")
    return found


@pytest.fixture
def kind(who: str, cgroups: Cgroups) -> Iterator[Callable[[Path, Path], Proxy]]:
    """In version 2 the daemon must be in a group beside those that it makes."""
    if who == "root":
        yield Proxy
        return
    name = f"test-delegated-{secrets.token_hex(8)}"  # other machines of namespaces have the same groups, and pids
    tops = [path / name for path in cgroups.tops.values()]
    own = [top / "daemon" if UNIFIED in cgroups.tops else top for top in tops]
    cgroups.make({name: str(path) for name, path in zip(cgroups.tops, own, strict=True)})
    for directory in {*tops, *own}:
        for path in (directory, *directory.glob("cgroup.*")):
            shutil.chown(path, "nobody")
    yield partial(DelegatedProxy, groups=own)
    left = [str(path) for top in tops for path in (*top.glob("*/"), top) if path.is_dir()]
    assert cgroup_member.remove(left)


async def test_a_container_over_its_memory_limit_is_told_as_the_kubelet_tells_it(kubelet: Kubelet, image: str) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("hungry", handler="multicri")
    resources = cri.LinuxContainerResources(memory_limit_in_bytes=32 * MIB)
    hungry = ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"]
    container = await kubelet.create_container(pod, image, command=hungry, resources=resources)
    await kubelet.start(container)
    status = await kubelet.wait_until_exited(container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_limits_are_in_force_are_changed_and_are_gone_with_the_container_and_what_is_used_is_told(
    kubelet: Kubelet, proxy: Proxy, image: str
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("busy", handler="multicri")
    resources = cri.LinuxContainerResources(
        cpu_quota=20_000, cpu_period=100_000, cpu_shares=512, memory_limit_in_bytes=64 * MIB, oom_score_adj=900
    )
    container = await kubelet.create_container(pod, image, command=BUSY, resources=resources)
    await kubelet.start(container)
    directory = proxy.directory / "charliecloud/containers" / container
    group = json.loads((directory / "cgroup").read_text())
    started = json.loads((directory / "started").read_text())
    assert Path(f"/proc/{started['pid']}/oom_score_adj").read_text() == "900\n"
    own = Path(f"/proc/{started['pid']}/cgroup").read_text()
    assert all(f"/{container}" in path and path.removeprefix("/sys/fs/cgroup")[-64:] in own for path in group.values())
    assert _limits(group) == (64 * MIB, 20_000)

    probe = cri.ExecSyncRequest(container_id=container, cmd=["cat", "/proc/self/cgroup"], timeout=30)
    assert f"/{container}".encode() in (await kubelet.call(probe, cri.ExecSyncResponse)).stdout

    more = cri.LinuxContainerResources(cpu_quota=30_000, cpu_period=100_000, memory_limit_in_bytes=96 * MIB)
    await _update(kubelet, container, more)
    assert _limits(group) == (96 * MIB, 30_000)
    await _update(kubelet, container, cri.LinuxContainerResources(memory_limit_in_bytes=80 * MIB))
    assert _limits(group) == (80 * MIB, 30_000)

    stats = await _eventually(partial(_stats, kubelet, container))
    assert 0 < stats.cpu.usage_nano_cores.value < 900_000_000
    assert 0 < stats.memory.working_set_bytes.value < 80 * MIB
    listed = await kubelet.call(cri.ListPodSandboxStatsRequest(), cri.ListPodSandboxStatsResponse)
    assert [one.linux.cpu.usage_core_nano_seconds.value > 0 for one in listed.stats] == [True]
    metrics = await kubelet.call(cri.ListPodSandboxMetricsRequest(), cri.ListPodSandboxMetricsResponse)
    assert metrics.pod_metrics[0].container_metrics[0].metrics[0].value.value > 0

    await kubelet.stop(container, grace_period_s=30)
    assert not [path for path in group.values() if Path(path).exists()]
    with pytest.raises(grpc.aio.AioRpcError, match="does not run"):
        await _update(kubelet, container, more)


def _limits(group: dict[str, str]) -> tuple[int, int]:
    """Of memory in bytes, and of CPU in microseconds of 100,000."""
    if UNIFIED in group:
        path = Path(group[UNIFIED])
        return int((path / "memory.max").read_text()), int((path / "cpu.max").read_text().split()[0])
    memory, cpu = (Path(group[name]) for name in ("memory", "cpu"))
    return int((memory / "memory.limit_in_bytes").read_text()), int((cpu / "cpu.cfs_quota_us").read_text())


async def _update(kubelet: Kubelet, container: str, resources: cri.LinuxContainerResources) -> None:
    request = cri.UpdateContainerResourcesRequest(container_id=container, linux=resources)
    await kubelet.call(request, cri.UpdateContainerResourcesResponse)


async def _stats(kubelet: Kubelet, container: str) -> cri.ContainerStats | None:
    request = cri.ListContainerStatsRequest(filter=cri.ContainerStatsFilter(id=container))
    [stats] = (await kubelet.call(request, cri.ListContainerStatsResponse)).stats
    return stats if stats.cpu.usage_nano_cores.value else None


async def _eventually(question: Callable[[], Awaitable[cri.ContainerStats | None]]) -> cri.ContainerStats:
    async with asyncio.timeout(60):
        while (answer := await question()) is None:
            await asyncio.sleep(0.5)
    return answer
