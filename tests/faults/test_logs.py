"""Logs that are whole, whatever breaks while they are written: each byte once, in order."""

import asyncio
from pathlib import Path

import pytest
from kubelet import Kubelet
from kubelet.client import PodOnNode, read_log
from load.vitals import MIB, vitals
from testbed import Testbed

from faults.breaking import kill_sessions
from faults.conftest import HANDLER, Node
from faults.looking import directory_of, eventually, printed
from faults.test_ssh import COUNTS, begin, counted, goes_on
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

LINES = 150_000
TEXT_AND_BYTES = f"""\
head -c 3000000 /bin/busybox >&2 &
n=0; while [ $n -lt 60 ]; do seq $((n*{LINES}/60)) $((n*{LINES}/60+{LINES}/60-1)); n=$((n+1)); sleep 0.2; done
wait; exit 5"""
FLOOD_BYTES = 300_000_000
FLOOD = f"yes $(printf %0200d 0) | head -c {FLOOD_BYTES}"
MOST_MORE_BYTES = 48 * MIB


async def rotate(kubelet: Kubelet, pod: PodOnNode, container_id: str, number: int) -> None:
    """As the kubelet does."""
    log = pod.log_directory / "main" / "0.log"
    log.rename(log.with_name(f"0.log.{number:04d}"))
    request = cri.ReopenContainerLogRequest(container_id=container_id)
    await kubelet.call(request, cri.ReopenContainerLogResponse)


async def test_text_and_bytes_are_whole_after_cut_connections_rotation_and_kills(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    await node.kubelet.pull(image)
    pod = await node.kubelet.run_pod_sandbox("writes", handler=HANDLER)
    command = ["sh", "-c", TEXT_AND_BYTES]
    container_id = await node.kubelet.create_container(pod, image, command=command, env=account)
    await node.kubelet.start(container_id)
    log = pod.log_directory / "main" / "0.log"
    exit_file = directory_of(bed, pod, container_id) / "exit"
    await grows(log, exit_file)
    for number in range(3):
        kill_sessions(bed, "alice")
        await rotate(node.kubelet, pod, container_id, number)
        await grows(log, exit_file)
        node.proxy.kill()
        await node.proxy.start()
        await grows(log, exit_file)
    assert (await node.kubelet.wait_until_exited(container_id)).exit_code == 5
    stderr = (directory_of(bed, pod, container_id) / "stderr").read_bytes()
    assert len(stderr) > 500_000
    whole = {b"stdout": b"".join(b"%d\n" % number for number in range(LINES)), b"stderr": stderr}
    await eventually(lambda: printed(pod) == whole, lambda: f"{ ({k: len(v) for k, v in printed(pod).items()}) }")


async def grows(log: Path, exit_file: Path) -> None:
    """Or has come to its end: where all else is slow, the writer may be done first."""
    before = log.stat().st_size
    await eventually(
        lambda: log.stat().st_size > before or exit_file.exists(), lambda: f"the log stays at {before} bytes"
    )


async def test_a_flood_keeps_other_logs_live_and_takes_little_memory(
    node: Node, image: str, account: dict[str, str]
) -> None:
    quiet, _ = await begin(node.kubelet, "quiet", image, account, COUNTS)
    assert node.proxy.process is not None
    pid = node.proxy.process.pid
    before, most = vitals(pid).resident_bytes, 0
    pod = await node.kubelet.run_pod_sandbox("floods", handler=HANDLER)
    flooding = await node.kubelet.create_container(pod, image, command=["sh", "-c", FLOOD], env=account)
    await node.kubelet.start(flooding)
    log = pod.log_directory / "main" / "0.log"
    async with asyncio.timeout(120):
        while (await node.kubelet.status(flooding)).state != cri.CONTAINER_EXITED:
            most = max(most, vitals(pid).resident_bytes)
            if log.exists() and log.stat().st_size < FLOOD_BYTES / 2:
                await goes_on(quiet)
            await asyncio.sleep(0.1)
    assert most - before < MOST_MORE_BYTES
    await eventually(
        lambda: log.stat().st_size > FLOOD_BYTES, lambda: f"its log has {log.stat().st_size} bytes", within_s=120
    )
    assert counted(quiet) == len(read_log(quiet))
