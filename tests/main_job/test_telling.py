"""What CRI is told of a Slurm pod while it waits and runs: in events, in its log, in its stats."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import read_log
from testbed import Testbed

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed


@pytest.fixture
async def slurm_only(bed: Testbed, tmp_path: Path) -> AsyncIterator[Kubelet]:
    """A proxy with no other runtime behind it: containerd 1.6 has no events, so that a merged stream has none."""
    config = tmp_path / "slurm-only.yaml"
    config.write_text(f"remote_runtime_endpoints: {{}}\nslurm: {{known_hosts: {bed.cluster.known_hosts}}}\n")
    proxy = Proxy(tmp_path / "slurm-only", config)
    proxy.directory.mkdir()
    await proxy.start()
    async with Kubelet.of(proxy.socket_path, tmp_path / "pods") as kubelet:
        yield kubelet
        for sandbox in await kubelet.sandboxes():
            await kubelet.remove_sandbox(sandbox.id)
    proxy.terminate()


async def test_a_job_that_waits_says_why_in_an_event_its_status_and_its_log(
    bed: Testbed, slurm_only: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    kubelet = slurm_only
    bed.cluster.run("login", ["scontrol", "update", "partitionname=gpu", "state=down"], check=True)
    try:
        pod = await kubelet.run_pod_sandbox("waits", handler="multicri")
        await kubelet.pull(image)
        container = await kubelet.create_container(
            pod, image, command=["echo", "hello"], env={**account, "JOB_QUEUE": "gpu"}
        )
        events = kubelet.channel.unary_stream(
            "/runtime.v1.RuntimeService/GetContainerEvents",
            request_serializer=cri.GetEventsRequest.SerializeToString,
            response_deserializer=cri.ContainerEventResponse.FromString,
        )(cri.GetEventsRequest())
        await kubelet.start(container)
        waits = await told(events, container, "PartitionDown")
        assert waits.state == cri.CONTAINER_RUNNING
        details = json.loads((await kubelet.details(container))["info"])
        assert (details["job_state"], details["queue_reason"]) == ("PENDING", "PartitionDown")
        assert waits.message == f"job {details['job_id']} is PENDING: PartitionDown"
        await kubelet.wait_for_log(pod, f"multicri: {waits.message}\n")
        assert (await kubelet.status(container)).state == cri.CONTAINER_RUNNING
    finally:
        bed.cluster.run("login", ["scontrol", "update", "partitionname=gpu", "state=up"], check=True)
    async with asyncio.timeout(60):
        async for event in events:
            if event.container_event_type == cri.CONTAINER_STOPPED_EVENT and event.container_id == container:
                break
    events.cancel()
    assert (await kubelet.status(container)).exit_code == 0
    assert read_log(pod, stream="stdout") == ["hello\n"]
    assert f"multicri: {waits.message}\n" in read_log(pod, stream="stderr")
    assert json.loads((await kubelet.details(container))["info"])["node_list"] == "cn2"


async def told(
    events: "grpc.aio.UnaryStreamCall[cri.GetEventsRequest, cri.ContainerEventResponse]", container: str, reason: str
) -> cri.ContainerStatus:
    """The container's status in the first event that has this reason in it."""
    async with asyncio.timeout(60):
        async for event in events:
            for status in event.containers_statuses:
                if (status.id, status.reason) == (container, reason):
                    return status
    raise AssertionError("the events ended")


async def test_each_line_is_in_the_log_while_the_job_waits_for_somebody_to_have_read_it(
    kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    pod = await kubelet.run_pod_sandbox("asks", handler="multicri")
    await kubelet.pull(image)
    script = """
        for line in 1 2 3; do
          echo "out $line"; echo "err $line" >&2
          until [ -e "/tmp/read-$line" ]; do sleep 0.1; done
        done
        exit 9
    """
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script], env=account)
    await kubelet.start(container)
    for line in range(1, 4):
        await kubelet.wait_for_log(pod, f"out {line}\n")
        await kubelet.wait_for_log(pod, f"err {line}\n")
        assert (await kubelet.status(container)).state == cri.CONTAINER_RUNNING
        request = cri.ExecSyncRequest(container_id=container, cmd=["touch", f"/tmp/read-{line}"], timeout=60)
        assert (await kubelet.call(request, cri.ExecSyncResponse)).exit_code == 0
    assert (await kubelet.wait_until_exited(container)).exit_code == 9
    for stream, word in (("stdout", "out"), ("stderr", "err")):
        assert [line for line in read_log(pod, stream=stream) if word in line] == [f"{word} {n}\n" for n in (1, 2, 3)]


async def test_stats_are_what_the_job_uses(kubelet: Kubelet, image: str, account: Mapping[str, str]) -> None:
    pod = await kubelet.run_pod_sandbox("burns", handler="multicri")
    await kubelet.pull(image)
    script = "x=$(head -c 50000000 /dev/zero | tr '\\0' x); echo full; while :; do :; done"
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script], env=account)
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "full\n")
    first = await stats_of(kubelet, container, at_least_cpu_ns=1)
    assert 50_000_000 < first.memory.working_set_bytes.value < 400_000_000
    more_ns = first.cpu.usage_core_nano_seconds.value + 1_000_000_000
    second = await stats_of(kubelet, container, at_least_cpu_ns=more_ns)
    elapsed_ns = second.cpu.timestamp - first.cpu.timestamp
    used_ns = second.cpu.usage_core_nano_seconds.value - first.cpu.usage_core_nano_seconds.value
    assert used_ns < elapsed_ns + 2_000_000_000  # one busy core; sstat tells whole seconds
    assert second.cpu.usage_nano_cores.value == pytest.approx(used_ns / elapsed_ns * 1e9, rel=0.01)
    request = cri.PodSandboxStatsRequest(pod_sandbox_id=pod.sandbox_id)
    of_pod = (await kubelet.call(request, cri.PodSandboxStatsResponse)).stats.linux
    assert of_pod.cpu == of_pod.containers[0].cpu
    assert of_pod.memory.working_set_bytes.value > 50_000_000
    await kubelet.stop(container, 0)


async def stats_of(kubelet: Kubelet, container: str, *, at_least_cpu_ns: int) -> cri.ContainerStats:
    """Asks for the list as the kubelet does, until the container's processor time is that much."""
    async with asyncio.timeout(120):
        while True:
            listed = await kubelet.call(cri.ListContainerStatsRequest(), cri.ListContainerStatsResponse)
            [stats] = [one for one in listed.stats if one.attributes.id == container]
            if stats.cpu.usage_core_nano_seconds.value >= at_least_cpu_ns:
                return stats
            await asyncio.sleep(0.5)
