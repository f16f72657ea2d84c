"""What is true of the cluster, whatever the proxy says of it."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from kubelet import Kubelet
from kubelet.client import PodOnNode
from runtime.test_logs import read_as_the_kubelet_does
from testbed import Testbed
from testbed.cluster import USERS
from testbed.host import HostName

from multicri_proxy.cri.v1 import runtime_pb2 as cri

HOSTS = cast("tuple[HostName, ...]", ("login", "cn1", "cn2"))


async def eventually(is_so: Callable[[], bool], otherwise: Callable[[], str], within_s: float = 60.0) -> None:
    """Ask until it is so. Raises TimeoutError with what is so instead."""
    try:
        async with asyncio.timeout(within_s):
            while not await asyncio.to_thread(is_so):
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise TimeoutError(otherwise()) from error


def jobs_that_live(bed: Testbed) -> Mapping[str, str]:
    """The jobs that have not ended: name by id."""
    squeue = bed.cluster.run("login", ["squeue", "-h", "-o", "%i %j"], check=True)
    return dict(line.split() for line in squeue.stdout.splitlines())


def jobs_of(bed: Testbed, container_id: str) -> list[str]:
    """The ids of all jobs that slurmctld knows for a container."""
    name = f"multicri-{container_id[:32]}"
    return bed.cluster.run("login", ["squeue", "-h", "-t", "all", "-n", name, "-o", "%i"], check=True).stdout.split()


def left_in_the_cluster(bed: Testbed) -> list[str]:
    """Directories of pods, and processes of their users on any host."""
    left = []
    for user in USERS:
        home = bed.cluster.user(user.name).home
        left += [str(path) for path in home.glob("multi-cri/*") if path.name != "images"]
        left += [str(path) for path in home.glob("multi-cri/images/.*.building*")]
        for host in HOSTS:
            processes = bed.cluster.run(host, ["ps", "-u", user.name, "-o", "stat=,args="]).stdout.splitlines()
            left += [f"{host}: {process}" for process in processes if not process.startswith("Z")]
    return left


async def agree(bed: Testbed, kubelet: Kubelet) -> None:
    """Wait until squeue and the proxy's records say the same: which containers have a job that lives."""

    async def ours() -> set[str]:
        running = [one.id for one in await kubelet.containers() if one.state == cri.CONTAINER_RUNNING]
        return {(await details_of(kubelet, container_id)).get("job_id", "") for container_id in running} - {""}

    recorded: set[str] = set()
    living: set[str] = set()
    try:
        async with asyncio.timeout(60):
            while True:
                recorded, living = await ours(), set(await asyncio.to_thread(jobs_that_live, bed))
                if recorded == living:
                    return
                await asyncio.sleep(0.2)
    except TimeoutError as error:
        raise TimeoutError(f"recorded: {sorted(recorded)}; squeue: {sorted(living)}") from error


async def details_of(kubelet: Kubelet, container_id: str) -> Mapping[str, str]:
    """What the verbose status says of a container."""
    found: Mapping[str, str] = json.loads((await kubelet.details(container_id))["info"])
    return found


def directory_of(bed: Testbed, pod: PodOnNode, container_id: str, user: str = "alice") -> Path:
    """A container's directory in the cluster, as this machine sees it."""
    return bed.cluster.user(user).home / "multi-cri" / pod.sandbox_id / container_id


def printed(pod: PodOnNode, name: str = "main") -> dict[bytes, bytes]:
    """What ``kubectl logs`` would print of each stream, of all files that rotation has left, oldest first."""
    directory = pod.log_directory / name
    files = sorted(directory.iterdir(), key=lambda file: (file.name == "0.log", file.name))
    return read_as_the_kubelet_does(b"".join(file.read_bytes() for file in files))
