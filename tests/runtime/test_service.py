"""Images, stats, and calls for the runtime as a whole; and that no method of CRI is missing."""

import asyncio
import re
from pathlib import Path

import pytest

from multicri_proxy.api.adapter import Usage
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, NotFound
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.service import Runtime
from runtime.doubles import IMAGE, Client, Node
from runtime.test_logs import read_as_the_kubelet_does


def test_every_method_of_cri_is_there() -> None:
    for service in cri.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method.name).lower()
            assert callable(getattr(Runtime, name, None)), name


async def test_a_pod_without_an_ip_is_refused_from_the_start(client: Client, node: Node) -> None:
    with pytest.raises(InvalidArgument, match="pod_ip is empty"):
        Runtime(
            adapter=None,  # type: ignore[arg-type]
            images=node.images,
            ledger=None,  # type: ignore[arg-type]
            directory=node.directory,
            handlers=("multicri",),
            pod_ip="",
            streaming=None,  # type: ignore[arg-type]
        )


async def test_a_pulled_image_is_found_by_name_and_by_reference(client: Client) -> None:
    name = "multicri/docker-repository.python:3"
    spec = cri.ImageSpec(image=name)
    assert not (await client.runtime.image_status(cri.ImageStatusRequest(image=spec))).HasField("image")
    reference = (await client.runtime.pull_image(cri.PullImageRequest(image=spec))).image_ref
    for text in (name, reference):
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image=text), verbose=True)
        response = await client.runtime.image_status(request)
        assert response.image.id == reference
        assert list(response.image.repo_tags) == [name]
        assert response.image.size > 0
        assert "docker://" in response.info["info"]


async def test_images_are_listed_all_or_by_name_and_removed(client: Client) -> None:
    runtime = client.runtime
    await runtime.pull_image(cri.PullImageRequest(image=cri.ImageSpec(image="multicri/x:1")))
    listed = await runtime.list_images(cri.ListImagesRequest())
    assert [list(image.repo_tags) for image in listed.images] == [[IMAGE], ["multicri/x:1"]]
    wanted = cri.ImageFilter(image=cri.ImageSpec(image="multicri/x:1"))
    assert len((await runtime.list_images(cri.ListImagesRequest(filter=wanted))).images) == 1
    streamed = [batch async for batch in runtime.stream_images(cri.StreamImagesRequest())]
    assert [image.id for batch in streamed for image in batch.images] == [image.id for image in listed.images]
    for _ in range(2):
        await runtime.remove_image(cri.RemoveImageRequest(image=cri.ImageSpec(image="multicri/x:1")))
    assert len((await runtime.list_images(cri.ListImagesRequest())).images) == 1


async def test_an_image_without_a_name_is_refused(client: Client) -> None:
    with pytest.raises(InvalidArgument, match=r"image\.image is empty"):
        await client.runtime.pull_image(cri.PullImageRequest())


async def test_the_image_file_system_is_that_of_the_ledger(client: Client, node: Node) -> None:
    response = await client.runtime.image_fs_info(cri.ImageFsInfoRequest())
    mountpoint = response.image_filesystems[0].fs_id.mountpoint
    assert mountpoint == str(node.directory / "state")
    assert Path(mountpoint).is_dir()


async def test_the_node_is_ready_and_has_our_handler(client: Client) -> None:
    status = await client.runtime.status(cri.StatusRequest(verbose=True))
    assert {one.type: one.status for one in status.status.conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert [handler.name for handler in status.runtime_handlers] == ["multicri"]
    version = await client.runtime.version(cri.VersionRequest())
    assert (version.runtime_name, version.runtime_api_version) == ("multicri", "v1")
    config = await client.runtime.runtime_config(cri.RuntimeConfigRequest())
    assert config.linux.cgroup_driver == cri.CGROUPFS
    await client.runtime.update_runtime_config(cri.UpdateRuntimeConfigRequest())


async def test_stats_are_of_what_runs_and_say_when(client: Client) -> None:
    runtime = client.runtime
    ready, stopped = await client.sandbox(), await client.sandbox("stopped")
    running, exited = await client.started(ready), await client.started(ready, "exited")
    await client.stop(exited)
    await client.stop_sandbox(stopped)
    stats = (await runtime.list_container_stats(cri.ListContainerStatsRequest())).stats
    assert [one.attributes.id for one in stats] == [running]
    assert stats[0].cpu.timestamp > 0
    assert not stats[0].memory.HasField("working_set_bytes")
    pods = (await runtime.list_pod_sandbox_stats(cri.ListPodSandboxStatsRequest())).stats
    assert [one.attributes.id for one in pods] == [ready]
    assert [one.attributes.id for one in pods[0].linux.containers] == [running]
    assert (await runtime.container_stats(cri.ContainerStatsRequest(container_id=exited))).stats.attributes.id == exited
    one = await runtime.pod_sandbox_stats(cri.PodSandboxStatsRequest(pod_sandbox_id=stopped))
    assert one.stats.attributes.id == stopped
    with pytest.raises(NotFound):
        await runtime.container_stats(cri.ContainerStatsRequest(container_id="f" * 64))


async def test_stats_are_what_the_adapter_has_measured_and_a_pods_are_their_sum(client: Client, node: Node) -> None:
    runtime, sandbox_id = client.runtime, await client.sandbox()
    measured, also, unmeasured = [await client.started(sandbox_id, name) for name in ("one", "two", "three")]
    jobs = node.cluster.jobs
    jobs[ContainerId(measured)].usage = Usage(
        measured_at_ns=70, cpu_ns=5, cpu_nano_cores=3, memory_bytes=100, resident_bytes=90
    )
    jobs[ContainerId(also)].usage = Usage(measured_at_ns=60, cpu_ns=2, memory_bytes=11)
    stats = (await runtime.list_container_stats(cri.ListContainerStatsRequest())).stats
    assert [one.attributes.id for one in stats] == [measured, also, unmeasured]
    assert (stats[0].cpu.timestamp, stats[0].cpu.usage_core_nano_seconds.value) == (70, 5)
    memory = stats[0].memory
    assert (memory.timestamp, memory.working_set_bytes.value, memory.rss_bytes.value) == (70, 100, 90)
    assert [one.cpu.HasField("usage_nano_cores") for one in stats] == [True, False, False]
    assert [one.memory.HasField("rss_bytes") for one in stats] == [True, False, False]
    assert not stats[2].memory.HasField("working_set_bytes")
    one = (await runtime.pod_sandbox_stats(cri.PodSandboxStatsRequest(pod_sandbox_id=sandbox_id))).stats.linux
    assert (one.cpu.timestamp, one.cpu.usage_core_nano_seconds.value, one.cpu.usage_nano_cores.value) == (60, 7, 3)
    assert one.memory.working_set_bytes.value == 111
    [listed] = (await runtime.list_pod_sandbox_stats(cri.ListPodSandboxStatsRequest())).stats
    assert listed.linux.memory == one.memory


async def test_metrics_have_the_labels_that_their_descriptors_name(client: Client, node: Node) -> None:
    runtime, sandbox_id = client.runtime, await client.sandbox()
    measured, _ = await client.started(sandbox_id, "one"), await client.started(sandbox_id, "two")
    node.cluster.jobs[ContainerId(measured)].usage = Usage(measured_at_ns=70, cpu_ns=5, memory_bytes=100)
    described = (await runtime.list_metric_descriptors(cri.ListMetricDescriptorsRequest())).descriptors
    [pod] = (await runtime.list_pod_sandbox_metrics(cri.ListPodSandboxMetricsRequest())).pod_metrics
    streamed = [batch async for batch in runtime.stream_pod_sandbox_metrics(cri.StreamPodSandboxMetricsRequest())]
    assert [one for batch in streamed for one in batch.pod_sandbox_metrics] == [pod]
    [container] = pod.container_metrics
    assert (pod.pod_sandbox_id, container.container_id) == (sandbox_id, measured)
    assert {one.name: one.value.value for one in container.metrics} == {
        "multicri_container_cpu_usage_nanoseconds_total": 5,
        "multicri_container_memory_working_set_bytes": 100,
    }
    for metric in container.metrics:
        [keys] = [one.label_keys for one in described if one.name == metric.name]
        labels = dict(zip(keys, metric.label_values, strict=True))
        assert (labels["container"], labels["id"], metric.timestamp) == ("one", measured, 70)


async def test_streams_have_what_lists_have(client: Client) -> None:
    runtime = client.runtime
    sandbox_id = await client.sandbox()
    container_id = await client.started(sandbox_id)
    pods = [batch async for batch in runtime.stream_pod_sandboxes(cri.StreamPodSandboxesRequest())]
    assert [one.id for batch in pods for one in batch.pod_sandboxes] == [sandbox_id]
    containers = [batch async for batch in runtime.stream_containers(cri.StreamContainersRequest())]
    assert [one.id for batch in containers for one in batch.containers] == [container_id]
    stats = [batch async for batch in runtime.stream_container_stats(cri.StreamContainerStatsRequest())]
    assert [one.attributes.id for batch in stats for one in batch.container_stats] == [container_id]
    sums = [batch async for batch in runtime.stream_pod_sandbox_stats(cri.StreamPodSandboxStatsRequest())]
    assert [one.attributes.id for batch in sums for one in batch.pod_sandbox_stats] == [sandbox_id]


async def test_lists_keep_to_their_filter(client: Client) -> None:
    first, second = await client.sandbox("first"), await client.sandbox("second")
    inner = await client.started(first)
    await client.started(second)
    assert await client.containers(cri.ContainerFilter(pod_sandbox_id=first)) == [inner]
    assert await client.containers(cri.ContainerFilter(id=inner[:13])) == [inner]
    request = cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(label_selector={"app": "second"}))
    assert [one.id for one in (await client.runtime.list_pod_sandbox(request)).items] == [second]


async def test_a_log_is_reopened_where_the_kubelet_moved_it_away(client: Client, node: Node) -> None:
    container_id = await client.started(await client.sandbox())
    path = node.directory / "logs" / "pod" / "main" / "0.log"
    path.rename(path.with_name("0.log.rotated"))
    await client.runtime.reopen_container_log(cri.ReopenContainerLogRequest(container_id=container_id))
    assert path.read_bytes() == b""
    await client.stop(container_id)
    assert read_as_the_kubelet_does(path.read_bytes())[b"stdout"] == b""
    with pytest.raises(FailedPrecondition, match="is exited, and writes no log"):
        await client.runtime.reopen_container_log(cri.ReopenContainerLogRequest(container_id=container_id))


async def test_the_end_of_the_runtime_ends_its_event_streams(node: Node) -> None:
    async with asyncio.TaskGroup() as group:
        async with node.running() as runtime:
            events = runtime.get_container_events(cri.GetEventsRequest())
            reader = group.create_task(_count(events))
            await asyncio.sleep(0)
            await Client(node, runtime).sandbox()
        assert await reader == 2


async def _count(events: object) -> int:
    return len([one async for one in events])  # type: ignore[attr-defined]
