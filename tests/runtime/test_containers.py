"""CRI's rules for containers."""

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing

import pytest

from multicri_proxy.api.adapter import Mount, OutputStream, Phase
from multicri_proxy.api.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.follow import MOST_NOTES
from runtime.doubles import IMAGE, Client, Node
from runtime.test_logs import read_as_the_kubelet_does


async def test_the_adapter_gets_all_that_was_asked_for(client: Client, node: Node) -> None:
    sandbox_id = await client.sandbox()
    container_id = await client.container(sandbox_id)
    spec = next(iter(node.cluster.jobs.values())).spec
    assert spec.id == container_id
    assert (spec.name, spec.attempt, spec.command, spec.args) == ("main", 0, ("perl",), ("-e", "print 1"))
    assert spec.env == (("TOKEN", b"a secret value"), ("B", b"2"))
    assert spec.mounts == (Mount(container_path="/data", host_path="/srv/data", readonly=True),)
    assert (spec.pod.name, spec.pod.namespace, spec.pod.uid) == ("pod", "default", "uid-of-pod")
    assert spec.pod.sandbox_id == sandbox_id
    assert spec.pod.annotations == {"note": "kept"}
    assert spec.image.names == (IMAGE,)


async def test_a_container_is_created_then_running_then_exited(client: Client, node: Node) -> None:
    container_id = await client.container(await client.sandbox())
    created = await client.status(container_id)
    assert created.state == cri.CONTAINER_CREATED
    assert (created.started_at, created.finished_at) == (0, 0)
    await client.start(container_id)
    running = await client.status(container_id)
    assert running.state == cri.CONTAINER_RUNNING
    assert running.started_at > created.created_at
    await node.cluster.report(container_id, Phase.EXITED, exit_code=3)
    exited = await client.until_exited(container_id)
    assert (exited.exit_code, exited.reason) == (3, "Error")
    assert exited.finished_at >= exited.started_at > 0


async def test_a_status_has_all_that_the_kubelet_reads(client: Client, node: Node) -> None:
    container_id = await client.container(await client.sandbox())
    status, config = await client.status(container_id), node.container_config()
    assert status.metadata == config.metadata
    assert list(status.mounts) == list(config.mounts)
    assert dict(status.labels) == dict(config.labels)
    assert dict(status.annotations) == dict(config.annotations)
    assert status.image.image == IMAGE
    assert status.image_ref == status.image_id == client.node.images.images()[0].id
    assert status.log_path == str(node.directory / "logs" / "pod" / "main" / "0.log")


async def test_a_container_that_exits_well_is_completed(client: Client, node: Node) -> None:
    container_id = await client.started(await client.sandbox())
    await node.cluster.report(container_id, Phase.EXITED, started_at_ns=1_100_000_000, finished_at_ns=1_200_000_000)
    status = await client.until_exited(container_id)
    assert (status.exit_code, status.reason) == (0, "Completed")


async def test_a_queued_container_is_running_with_an_empty_log(client: Client, node: Node) -> None:
    container_id = await client.started(await client.sandbox())
    assert (await client.status(container_id)).state == cri.CONTAINER_RUNNING
    assert node.log() == b""


async def test_why_a_container_waits_is_told_at_once_in_an_event_its_status_and_its_log(
    client: Client, node: Node
) -> None:
    container_id = await client.started(await client.sandbox())
    async with aclosing(client.runtime.get_container_events(cri.GetEventsRequest())) as events:  # type: ignore[type-var]
        told = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        for reason, message in (
            ("Priority", "job 7 is PENDING: Priority"),
            ("Resources", "job 7 is PENDING: Resources"),
        ):
            await node.cluster.report(container_id, Phase.QUEUED, reason=reason, message=message)
            event = await told
            assert (event.container_id, event.container_event_type) == (container_id, cri.CONTAINER_STARTED_EVENT)
            [status] = event.containers_statuses
            assert (status.state, status.reason, status.message) == (cri.CONTAINER_RUNNING, reason, message)
            assert await client.status(container_id) == status
            told = asyncio.ensure_future(anext(events))
        started_at_ns = status.created_at + 1
        await node.cluster.report(container_id, Phase.RUNNING, started_at_ns=started_at_ns, message="job 7 runs on cn1")
        [status] = (await told).containers_statuses
        assert (status.started_at, status.reason) == (started_at_ns, "")
    await node.cluster.write(container_id, OutputStream.STDOUT, b"output\n")
    await client.stop(container_id)
    log = read_as_the_kubelet_does(node.log())
    assert log[b"stderr"].decode().splitlines() == [
        "multicri: job 7 is PENDING: Priority",
        "multicri: job 7 is PENDING: Resources",
        "multicri: job 7 runs on cn1",
    ]
    assert log[b"stdout"] == b"output\n"
    assert (await client.status(container_id)).reason == "Error"


async def test_a_container_that_does_not_wait_has_nothing_but_its_own_words_in_its_log(
    client: Client, node: Node
) -> None:
    container_id = await client.started(await client.sandbox())
    await node.cluster.report(container_id, Phase.RUNNING, started_at_ns=1, message="job 7 runs on cn1")
    await node.cluster.write(container_id, OutputStream.STDERR, b"own\n")
    await client.stop(container_id)
    assert read_as_the_kubelet_does(node.log())[b"stderr"] == b"own\n"


async def test_however_often_a_reason_changes_the_log_stays_short(client: Client, node: Node) -> None:
    container_id = await client.started(await client.sandbox())
    for number in range(3 * MOST_NOTES):
        await node.cluster.report(container_id, Phase.QUEUED, reason="Other", message=f"reason {number} " + "x" * 9999)
        while (await client.status(container_id)).message[:20] != f"reason {number} {'x' * 20}"[:20]:
            await asyncio.sleep(0)
    await client.stop(container_id)
    lines = node.log().splitlines()
    assert len(lines) == MOST_NOTES
    assert max(map(len, lines)) < 1000
    assert b"no more" in lines[-1]


async def test_the_image_may_be_named_by_its_id(client: Client, node: Node) -> None:
    config = node.container_config()
    config.image.image = node.images.images()[0].id
    container_id = await client.container(await client.sandbox(), config)
    assert (await client.status(container_id)).image.image == IMAGE


async def test_an_image_that_was_not_pulled_is_not_found(client: Client, node: Node) -> None:
    config = node.container_config()
    config.image.image = "multicri/docker-repository.other:1"
    with pytest.raises(NotFound, match="has not been pulled"):
        await client.container(await client.sandbox(), config)


async def test_a_kubelet_that_asks_twice_gets_one_container(client: Client, node: Node) -> None:
    sandbox_id = await client.sandbox()
    ids = await asyncio.gather(*(client.container(sandbox_id) for _ in range(5)))
    assert len(set(ids)) == 1
    assert len(node.cluster.jobs) == 1


async def test_variables_in_another_order_are_the_same_container(client: Client, node: Node) -> None:
    sandbox_id, config = await client.sandbox(), node.container_config()
    first = await client.container(sandbox_id, config)
    variables = list(reversed(config.envs))
    del config.envs[:]
    config.envs.extend(variables)
    assert await client.container(sandbox_id, config) == first


async def test_another_container_of_the_same_name_already_exists(client: Client, node: Node) -> None:
    sandbox_id, config = await client.sandbox(), node.container_config()
    await client.container(sandbox_id, config)
    config.args.append("more")
    with pytest.raises(AlreadyExists, match="attempt 0 of container 'main'"):
        await client.container(sandbox_id, config)


async def test_the_name_of_a_started_container_is_taken(client: Client) -> None:
    sandbox_id = await client.sandbox()
    await client.started(sandbox_id)
    with pytest.raises(AlreadyExists):
        await client.container(sandbox_id)


async def test_starting_a_running_container_starts_no_second_job(client: Client, node: Node) -> None:
    container_id = await client.container(await client.sandbox())
    await asyncio.gather(*(client.start(container_id) for _ in range(3)))
    await client.start(container_id)
    assert [name for name, _ in node.cluster.calls].count("start_container") == 1


async def test_starting_an_exited_container_is_refused(client: Client) -> None:
    container_id = await client.started(await client.sandbox())
    await client.stop(container_id)
    with pytest.raises(FailedPrecondition, match="is exited, and cannot start again"):
        await client.start(container_id)


async def test_a_start_that_is_refused_for_good_ends_the_container(client: Client, node: Node) -> None:
    container_id = await client.container(await client.sandbox())
    node.cluster.failures["start_container"] = [PermissionDenied("account is not allowed")]
    with pytest.raises(PermissionDenied):
        await client.start(container_id)
    status = await client.status(container_id)
    assert (status.exit_code, status.reason, status.message) == (128, "StartError", "account is not allowed")
    assert status.finished_at >= status.started_at > 0


async def test_a_start_that_may_come_through_leaves_the_container_created(client: Client, node: Node) -> None:
    container_id = await client.container(await client.sandbox())
    node.cluster.failures["start_container"] = [Unavailable("slurmctld is silent")]
    with pytest.raises(Unavailable):
        await client.start(container_id)
    assert (await client.status(container_id)).state == cri.CONTAINER_CREATED
    await client.start(container_id)
    assert (await client.status(container_id)).state == cri.CONTAINER_RUNNING


async def test_a_new_attempt_first_ends_the_one_before(client: Client, node: Node) -> None:
    sandbox_id = await client.sandbox()
    first = await client.container(sandbox_id)
    node.cluster.failures["start_container"] = [Unavailable("slurmctld is silent")]
    with pytest.raises(Unavailable):
        await client.start(first)
    second = await client.container(sandbox_id, node.container_config(attempt=1))
    node.cluster.failures["remove_container"] = [Unavailable("slurmctld is silent")]
    with pytest.raises(Unavailable):  # the first one's job may run: the second must not
        await client.start(second)
    await client.start(second)
    assert list(node.cluster.jobs) == [second]
    assert (await client.status(first)).reason == "Superseded"


async def test_a_cancelled_start_that_came_through_is_running(client: Client, node: Node) -> None:
    container_id = await client.container(await client.sandbox())
    node.cluster.gates["start_container"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        start = group.create_task(client.start(container_id))
        await node.cluster.called("start_container")
        start.cancel()
    assert start.cancelled()
    await node.cluster.report(container_id, Phase.QUEUED)
    await node.cluster.report(container_id, Phase.EXITED, exit_code=5)
    assert (await client.until_exited(container_id)).exit_code == 5


async def test_stopping_is_idempotent(client: Client, node: Node) -> None:
    container_id = await client.started(await client.sandbox())
    await client.stop(container_id)
    first = await client.status(container_id)
    await client.stop(container_id)
    await client.stop("f" * 64)
    assert first == await client.status(container_id)
    assert (first.state, first.exit_code) == (cri.CONTAINER_EXITED, 143)


async def test_stopping_a_created_container_ends_it_without_success(client: Client, node: Node) -> None:
    container_id = await client.container(await client.sandbox())
    await client.stop(container_id)
    status = await client.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 128, "NeverStarted")
    assert not node.cluster.jobs


async def test_removing_is_idempotent(client: Client, node: Node) -> None:
    container_id = await client.started(await client.sandbox())
    await asyncio.gather(*(client.remove(container_id) for _ in range(3)))
    await client.remove(container_id)
    assert not node.cluster.jobs
    with pytest.raises(NotFound):
        await client.status(container_id)


async def test_a_container_that_cannot_be_removed_stays(client: Client, node: Node) -> None:
    container_id = await client.started(await client.sandbox())
    node.cluster.failures["remove_container"] = [Unavailable("slurmctld is silent")]
    with pytest.raises(Unavailable):
        await client.remove(container_id)
    assert await client.containers() == [container_id]
    await client.remove(container_id)
    assert await client.containers() == []


async def test_a_report_never_goes_backwards(client: Client, node: Node) -> None:
    container_id = await client.started(await client.sandbox())
    await node.cluster.report(container_id, Phase.EXITED, exit_code=1)
    first = await client.until_exited(container_id)
    await node.cluster.report(container_id, Phase.RUNNING)
    await node.cluster.report(container_id, Phase.EXITED, exit_code=2)
    await client.started(await client.sandbox("other"))  # goes through the same watch
    assert await client.status(container_id) == first


async def test_an_adapter_that_raises_while_creating_leaves_nothing(client: Client, node: Node) -> None:
    node.cluster.failures["create_container"] = [InvalidArgument("CLUSTER_HOST is missing")]
    with pytest.raises(InvalidArgument):
        await client.container(await client.sandbox())
    assert await client.containers() == []


def _nul(field: str) -> Callable[[cri.ContainerConfig], None]:
    def change(config: cri.ContainerConfig) -> None:
        match field:
            case "command":
                config.command.append("a\0b")
            case "args":
                config.args.append("a\0b")
            case "working_dir":
                config.working_dir = "a\0b"
            case "envs.key":
                config.envs.add(key="a\0b", value=b"1")
            case "envs.value":
                config.envs.add(key="a", value=b"1\0")
            case "mounts":
                config.mounts.add(container_path="a\0b", host_path="/x")

    return change


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("command", r"config\.command\[1\]"),
        ("args", r"config\.args\[2\]"),
        ("working_dir", r"config\.working_dir"),
        ("envs.key", r"config\.envs\[2\]\.key"),
        ("envs.value", r"config\.envs\[2\]\.value \(a\)"),
        ("mounts", r"config\.mounts\[1\]\.container_path"),
    ],
)
async def test_a_nul_byte_is_refused_by_the_field_it_is_in(client: Client, node: Node, field: str, named: str) -> None:
    config = node.container_config()
    _nul(field)(config)
    with pytest.raises(InvalidArgument, match=f"{named} has a NUL byte"):
        await client.container(await client.sandbox(), config)
    assert not node.cluster.jobs


@pytest.mark.parametrize("path", ["../escape.log", "main/../../escape.log", "/etc/passwd", "..", "."])
async def test_a_log_path_out_of_the_log_directory_is_refused(client: Client, node: Node, path: str) -> None:
    config = node.container_config()
    config.log_path = path
    with pytest.raises(InvalidArgument, match="log_path"):
        await client.container(await client.sandbox(), config)
    assert not (node.directory / "logs").exists()
    assert not node.cluster.jobs


async def test_a_verbose_status_has_the_adapters_facts(client: Client, node: Node) -> None:
    container_id = await client.started(await client.sandbox())
    request = cri.ContainerStatusRequest(container_id=container_id, verbose=True)
    facts = json.loads((await client.runtime.container_status(request)).info["info"])
    assert facts["job"] == f"of {container_id}"
    node.cluster.failures["details"] = [Unavailable("no facts now")]
    facts = json.loads((await client.runtime.container_status(request)).info["info"])
    assert facts["detailsError"] == "no facts now"


async def test_no_value_of_the_environment_is_in_the_ledger(client: Client, node: Node) -> None:
    await client.started(await client.sandbox())
    for file in (node.directory / "state").iterdir():
        assert b"a secret value" not in file.read_bytes()


async def test_pinning_to_cpus_is_accepted_and_a_resize_is_not(client: Client) -> None:
    container_id = await client.started(await client.sandbox())
    pinning = cri.LinuxContainerResources(cpuset_cpus="0-3", cpuset_mems="0")
    request = cri.UpdateContainerResourcesRequest(container_id=container_id, linux=pinning)
    await client.runtime.update_container_resources(request)
    request.linux.memory_limit_in_bytes = 1 << 30
    with pytest.raises(Unimplemented, match="keeps the resources with which it was started"):
        await client.runtime.update_container_resources(request)
