"""CRI's rules for sandboxes."""

import asyncio
import contextlib
from collections.abc import Coroutine

import pytest

from multicri_proxy.api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from runtime.doubles import Client, Node


async def test_a_sandbox_is_ready_with_all_that_it_was_given(client: Client, node: Node) -> None:
    sandbox_id = await client.sandbox()
    status = await client.sandbox_status(sandbox_id)
    config = node.sandbox_config()
    assert len(status.id) == 64
    assert status.state == cri.SANDBOX_READY
    assert status.metadata == config.metadata
    assert dict(status.labels) == dict(config.labels)
    assert dict(status.annotations) == dict(config.annotations)
    assert status.runtime_handler == "multicri"
    assert status.network.ip == "192.0.2.7"
    assert status.linux.namespaces.options == config.linux.security_context.namespace_options
    assert status.created_at > 0


async def test_a_kubelet_that_asks_twice_gets_one_sandbox(client: Client) -> None:
    ids = await asyncio.gather(*(client.sandbox() for _ in range(5)))
    assert len(set(ids)) == 1
    assert await client.sandboxes() == [ids[0]]


async def test_another_attempt_is_another_sandbox(client: Client) -> None:
    first = await client.sandbox()
    await client.stop_sandbox(first)
    assert await client.sandbox(attempt=1) != first


async def test_the_name_of_a_stopped_sandbox_is_taken(client: Client) -> None:
    await client.stop_sandbox(await client.sandbox())
    with pytest.raises(AlreadyExists, match="is stopped: remove it, or ask for the next attempt"):
        await client.sandbox()


@pytest.mark.parametrize("field", ["name", "uid", "namespace"])
async def test_a_sandbox_without_identity_is_refused(client: Client, node: Node, field: str) -> None:
    config = node.sandbox_config()
    config.metadata.ClearField(field)
    with pytest.raises(InvalidArgument, match=f"config.metadata.{field} is empty"):
        await client.runtime.run_pod_sandbox(cri.RunPodSandboxRequest(config=config))


@pytest.mark.parametrize("path", ["relative", "/var/log/../../etc", "/with\0nul"])
async def test_a_log_directory_that_leads_elsewhere_is_refused(client: Client, node: Node, path: str) -> None:
    config = node.sandbox_config()
    config.log_directory = path
    with pytest.raises(InvalidArgument, match="log_directory"):
        await client.runtime.run_pod_sandbox(cri.RunPodSandboxRequest(config=config))


async def test_stopping_a_stopped_sandbox_succeeds(client: Client) -> None:
    sandbox_id = await client.sandbox()
    await client.stop_sandbox(sandbox_id)
    await client.stop_sandbox(sandbox_id)
    assert (await client.sandbox_status(sandbox_id)).state == cri.SANDBOX_NOTREADY


async def test_stopping_and_removing_an_unknown_sandbox_succeeds(client: Client) -> None:
    await client.stop_sandbox("f" * 64)
    await client.remove_sandbox("f" * 64)


async def test_the_status_of_an_unknown_sandbox_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound):
        await client.sandbox_status("f" * 64)


async def test_what_is_held_for_a_sandbox_ends_with_it_even_if_a_container_cannot_be_stopped(
    client: Client, node: Node
) -> None:
    sandbox_id = await client.sandbox()
    await client.started(sandbox_id)
    node.cluster.failures["stop_container"] = [Unavailable("slurmctld is silent")]
    with pytest.raises(Unavailable):
        await client.stop_sandbox(sandbox_id)
    assert ("stop_sandbox", sandbox_id) in node.cluster.calls


async def test_stopping_a_sandbox_ends_all_its_containers_at_once(client: Client, node: Node) -> None:
    sandbox_id, other_id = await client.sandbox(), await client.sandbox("other")
    running = [await client.started(sandbox_id, name) for name in ("a", "b")]
    created = await client.container(sandbox_id, node.container_config("c"))
    untouched = await client.started(other_id)
    node.cluster.gates["stop_container"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(client.stop_sandbox(sandbox_id))
        await node.cluster.called("stop_container", 2)  # the second did not wait for the first
        node.cluster.gates["stop_container"].set()
    assert [(await client.status(one)).exit_code for one in running] == [137, 137]
    assert (await client.status(created)).state == cri.CONTAINER_EXITED
    assert (await client.status(untouched)).state == cri.CONTAINER_RUNNING
    assert (await client.sandbox_status(sandbox_id)).state == cri.SANDBOX_NOTREADY


async def test_a_sandbox_stays_ready_if_a_container_cannot_be_stopped(client: Client, node: Node) -> None:
    sandbox_id = await client.sandbox()
    running = [await client.started(sandbox_id, name) for name in ("a", "b")]
    node.cluster.failures["stop_container"] = [Unavailable("slurmctld is silent")]
    with pytest.raises(Unavailable):
        await client.stop_sandbox(sandbox_id)
    assert (await client.sandbox_status(sandbox_id)).state == cri.SANDBOX_READY
    states = {(await client.status(one)).state for one in running}
    assert states == {cri.CONTAINER_RUNNING, cri.CONTAINER_EXITED}
    await client.stop_sandbox(sandbox_id)
    assert (await client.sandbox_status(sandbox_id)).state == cri.SANDBOX_NOTREADY


async def test_nothing_can_be_created_or_started_in_a_stopped_sandbox(client: Client, node: Node) -> None:
    sandbox_id = await client.sandbox()
    await client.stop_sandbox(sandbox_id)
    with pytest.raises(FailedPrecondition, match="is not ready"):
        await client.container(sandbox_id)
    assert not node.cluster.jobs


async def test_a_container_whose_sandbox_stops_meanwhile_is_not_created(client: Client, node: Node) -> None:
    sandbox_id = await client.sandbox()
    node.cluster.gates["create_container"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        create = group.create_task(_refused(client, sandbox_id))
        await node.cluster.called("create_container")
        await client.stop_sandbox(sandbox_id)
        node.cluster.gates["create_container"].set()
        await create
    assert not node.cluster.jobs
    assert await client.containers() == []


async def test_a_container_that_comes_while_its_sandbox_stops_is_ended_too(client: Client, node: Node) -> None:
    for steps in range(20):
        sandbox_id = await client.sandbox(f"pod-{steps}")
        node.cluster.gates["create_container"] = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            create = group.create_task(_settled(client.container(sandbox_id)))
            await node.cluster.called("create_container", steps + 1)
            node.cluster.gates["create_container"].set()
            for _ in range(steps):
                await asyncio.sleep(0)  # let the creation go a step further each time
            await client.stop_sandbox(sandbox_id)
            await create
        for container_id in await client.containers(cri.ContainerFilter(pod_sandbox_id=sandbox_id)):
            assert (await client.status(container_id)).state == cri.CONTAINER_EXITED
        await client.remove_sandbox(sandbox_id)
        assert await client.containers() == []
        assert not node.cluster.jobs


async def test_removing_a_sandbox_removes_its_running_containers(client: Client, node: Node) -> None:
    sandbox_id = await client.sandbox()
    await client.started(sandbox_id)
    await client.remove_sandbox(sandbox_id)
    assert not node.cluster.jobs
    assert await client.containers() == []
    assert await client.sandboxes() == []


async def test_the_beginning_of_an_id_is_enough(client: Client) -> None:
    sandbox_id = await client.sandbox()
    assert (await client.sandbox_status(sandbox_id[:13])).id == sandbox_id
    assert client.runtime.owns_sandbox(sandbox_id[:12])
    assert not client.runtime.owns_sandbox(sandbox_id[:11])
    assert not client.runtime.owns_sandbox(sandbox_id + "0")
    assert not client.runtime.owns_sandbox("")
    with pytest.raises(NotFound):
        await client.sandbox_status(sandbox_id[:11])


async def test_a_verbose_status_tells_more(client: Client) -> None:
    sandbox_id = await client.sandbox()
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
    response = await client.runtime.pod_sandbox_status(request)
    assert '"adapter": "memory"' in response.info["info"]


async def test_one_pod_never_waits_for_another(client: Client, node: Node) -> None:
    slow, quick = await client.sandbox("slow"), await client.sandbox("quick")
    stuck = await client.container(slow)
    node.cluster.gates["start_container"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(client.start(stuck))
        await node.cluster.called("start_container")
        gate = node.cluster.gates.pop("start_container")
        await client.started(quick)
        await client.remove_sandbox(quick)
        assert len(await client.containers()) == 1
        gate.set()


async def _refused(client: Client, sandbox_id: str) -> None:
    with pytest.raises(FailedPrecondition):
        await client.container(sandbox_id)


async def _settled(call: Coroutine[object, object, str]) -> None:
    with contextlib.suppress(FailedPrecondition):
        await call
