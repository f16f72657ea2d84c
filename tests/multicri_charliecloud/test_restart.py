"""The daemon is killed, or a supervisor is: what becomes of the containers."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import PodOnNode, read_log
from testbed.processes import lives

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

CONTAINERS = int(os.environ.get("KILLED_CONTAINERS", "4"))


async def test_no_container_is_lost_when_the_daemon_is_killed(
    kubelet: Kubelet, proxy: Proxy, image: str, place: Path
) -> None:
    """Some end meanwhile, some go on: each has its own code and all of its output."""
    await kubelet.pull(image)
    (place / "gate").mkdir()
    mount = cri.Mount(container_path="/gate", host_path=str(place / "gate"))
    pods: dict[str, PodOnNode] = {}
    for number in range(CONTAINERS):
        pod = await kubelet.run_pod_sandbox(f"kept-{number}", handler="multicri")
        wait = f"while [ ! -e /gate/{number % 2} ]; do sleep 0.05; done"
        script = f"trap 'echo bye; exit 9' TERM; echo begin; {wait}; echo end {number}; exit {number + 10}"
        container = await kubelet.create_container(pod, image, command=["sh", "-c", script], mounts=[mount])
        await kubelet.start(container)
        pods[container] = pod
    for pod in pods.values():
        await kubelet.wait_for_log(pod, "begin\n")
    proxy.kill()
    (place / "gate/0").touch()
    for container in list(pods)[::2]:
        await _has_exited(proxy, container)
    await proxy.start()
    (place / "gate/1").touch()
    for number, (container, pod) in enumerate(pods.items()):
        assert (await kubelet.wait_until_exited(container)).exit_code == number + 10
        assert read_log(pod) == ["begin\n", f"end {number}\n"]


async def test_a_container_gets_its_signal_from_the_next_daemon(kubelet: Kubelet, proxy: Proxy, image: str) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("signal", handler="multicri")
    script = "trap 'echo bye; exit 21' USR1; echo ready; while :; do sleep 0.1; done"
    command = ["sh", "-c", script]
    container = await kubelet.create_container(pod, image, command=command, stop_signal=cri.SIGUSR1)
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "ready\n")
    proxy.kill()
    await proxy.start()
    assert (await kubelet.status(container)).state == cri.CONTAINER_RUNNING
    await kubelet.stop(container, grace_period_s=30)
    assert (await kubelet.status(container)).exit_code == 21


@pytest.mark.parametrize("daemon", ["lives", "is killed as well"])
async def test_a_killed_supervisor_is_told_as_such_and_leaves_no_process(
    kubelet: Kubelet, proxy: Proxy, image: str, daemon: str
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("lost", handler="multicri")
    container = await kubelet.create_container(pod, image, command=["sh", "-c", "echo ready; sleep 600; echo never"])
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "ready\n")
    started = json.loads((_directory(proxy, container) / "started").read_text())
    if daemon != "lives":
        proxy.kill()
    os.kill(started["supervisor_pid"], signal.SIGKILL)
    if daemon != "lives":
        await proxy.start()
    status = await kubelet.wait_until_exited(container)
    assert (status.exit_code, status.reason) == (137, "SupervisorLost")
    assert not lives(started["pid"])


async def test_a_second_start_starts_nothing(kubelet: Kubelet, proxy: Proxy, image: str) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("once", handler="multicri")
    container = await kubelet.create_container(pod, image, command=["sh", "-c", "echo begun; sleep 600"])
    await kubelet.start(container)
    await kubelet.start(container)
    proxy.kill()
    await proxy.start()
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "begun\n")
    await kubelet.stop(container, grace_period_s=0)
    assert read_log(pod) == ["begun\n"]


def _directory(proxy: Proxy, container: str) -> Path:
    return proxy.directory / "charliecloud/containers" / container


async def _has_exited(proxy: Proxy, container: str) -> None:
    async with asyncio.timeout(60):
        while not (_directory(proxy, container) / "exit").exists():
            await asyncio.sleep(0.02)
