"""Pods come and go, and nothing of them stays. As many as the environment says: a few where it says nothing.

SOAK_PODS: how many. SOAK_PODS_PER_MINUTE: when they begin; 0: four at a time, without a pause.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from kubelet import Kubelet, Proxy
from load.vitals import MIB, POOL_THREADS, Vitals, vitals
from multicri_charliecloud.cgroups import BASE, Cgroups
from node_processes import processes_with

from multicri_proxy.cri.v1 import runtime_pb2 as cri

PODS = int(os.environ.get("SOAK_PODS", "12"))
PODS_PER_MINUTE = float(os.environ.get("SOAK_PODS_PER_MINUTE", "0"))
WARM_UP_PODS = 8
AT_ONCE = 4
MOST_GROWTH_BYTES = 8 * MIB

pytestmark = [pytest.mark.testbed, pytest.mark.timeout(300 + PODS * 60 / (PODS_PER_MINUTE or 30))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What there is on the node, of the daemon and of its containers. files: but for the kubelet's."""

    processes: int
    mounts: int
    files: int
    cgroups: int
    daemon: Vitals

    @classmethod
    def of(cls, proxy: Proxy, containers: Sequence[str] = ()) -> "Left":
        """containers: whose control groups are counted: others on this machine have some in the same place."""
        assert proxy.process
        node = Cgroups.found()
        tops = {*node.tops.values(), *node.mounts.values()} if node else set()
        return cls(
            processes=len(processes_with(str(proxy.directory))),
            mounts=len(Path("/proc/self/mounts").read_text().splitlines()),
            files=sum(1 for path in proxy.directory.rglob("*") if path.parent.name != "root"),
            cgroups=sum((top / BASE / container).exists() for top in tops for container in containers),
            daemon=vitals(proxy.process.pid),
        )

    def is_no_more_than(self, other: "Left") -> bool:
        mine = (self.processes, self.mounts, self.files, self.cgroups, self.daemon.descriptors)
        others = (other.processes, other.mounts, other.files, other.cgroups, other.daemon.descriptors)
        return (
            all(one <= another for one, another in zip(mine, others, strict=True))
            and self.daemon.threads <= other.daemon.threads + POOL_THREADS
            and self.daemon.resident_bytes <= other.daemon.resident_bytes + MOST_GROWTH_BYTES
        )


async def test_pods_that_come_and_go_leave_nothing(kubelet: Kubelet, proxy: Proxy, image: str, place: Path) -> None:
    await kubelet.pull(image)
    await _churn(kubelet, image, place, WARM_UP_PODS, 0)
    before = Left.of(proxy)
    containers = await _churn(kubelet, image, place, PODS, PODS_PER_MINUTE)
    after = Left.of(proxy, containers)
    async with asyncio.timeout(60):
        while not after.is_no_more_than(before):  # what ends in the background
            await asyncio.sleep(1)
            after = Left.of(proxy, containers)
            print(f"waiting: {after}")
    print(f"{PODS} pods\nbefore: {before}\nafter:  {after}")


async def _churn(kubelet: Kubelet, image: str, place: Path, pods: int, pods_per_minute: float) -> list[str]:
    """Returns the ids of their containers."""
    room, tasks = asyncio.Semaphore(AT_ONCE if not pods_per_minute else pods), []
    async with asyncio.TaskGroup() as group:
        for number in range(pods):
            tasks.append(group.create_task(_pod(kubelet, image, place, number, room)))
            await asyncio.sleep(60 / pods_per_minute if pods_per_minute else 0)
    return [task.result() for task in tasks]


async def _pod(kubelet: Kubelet, image: str, place: Path, number: int, room: asyncio.Semaphore) -> str:
    """In turn one that ends, one that is stopped, one that is removed while it runs, one that never runs.

    Returns its container's id.
    """
    async with room:
        pod = await kubelet.run_pod_sandbox(f"soak-{number}", handler="multicri")
        volume = place / "volumes" / pod.sandbox_id
        volume.mkdir(parents=True)
        mounts = [cri.Mount(container_path="/scratch", host_path=str(volume))]
        wait = ["", "sleep 600 & trap 'exit 5' TERM; wait", "sleep 600", ""][number % 4]
        script = f"echo begun; echo x >/scratch/x; {wait}"
        resources = cri.LinuxContainerResources(memory_limit_in_bytes=64 * MIB)
        command = ["sh", "-c", script]
        container = await kubelet.create_container(pod, image, command=command, mounts=mounts, resources=resources)
        if number % 4 != 3:
            await kubelet.start(container)
            await kubelet.wait_for_log(pod, "begun\n")
        if number % 4 == 0:
            assert (await kubelet.wait_until_exited(container)).exit_code == 0
        if number % 4 == 1:
            probe = cri.ExecSyncRequest(container_id=container, cmd=["cat", "/scratch/x"], timeout=60)
            assert (await kubelet.call(probe, cri.ExecSyncResponse)).stdout == b"x\n"
            await kubelet.stop(container, grace_period_s=60)
        await kubelet.remove_sandbox(pod.sandbox_id)
    return container
