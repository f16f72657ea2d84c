"""Container events."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from multicri_proxy.api.adapter import Phase
from multicri_proxy.api.errors import ResourceExhausted
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.events import Events
from runtime.doubles import Client, Node


def event(name: str) -> cri.ContainerEventResponse:
    return cri.ContainerEventResponse(container_id=name)


async def test_each_subscriber_gets_each_event_in_order() -> None:
    events = Events()
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(_read(events.subscribe())) for _ in range(3)]
        await asyncio.sleep(0)
        for name in "abc":
            events.publish(event(name))
        events.close()
    assert [reader.result() for reader in readers] == [["a", "b", "c"]] * 3


async def test_a_slow_subscriber_is_cut_off_and_others_are_not() -> None:
    events = Events(capacity=2)
    slow, quick = events.subscribe(), events.subscribe()
    async with asyncio.TaskGroup() as group:
        first = [group.create_task(_next(one)) for one in (slow, quick)]
        await asyncio.sleep(0)
        events.publish(event("0"))
    assert [task.result() for task in first] == ["0", "0"]
    for name in "1234":
        events.publish(event(name))
        assert await _next(quick) == name
    assert [await _next(slow), await _next(slow)] == ["1", "2"]
    with pytest.raises(ResourceExhausted, match="list anew"):
        await _next(slow)
    events.publish(event("5"))
    assert await _next(quick) == "5"


async def test_a_pods_life_is_told_with_its_statuses(client: Client, node: Node) -> None:
    told: list[cri.ContainerEventResponse] = []
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(_collect(client, told))
        await asyncio.sleep(0)
        sandbox_id = await client.sandbox()
        container_id = await client.started(sandbox_id)
        await node.cluster.report(container_id, Phase.EXITED, exit_code=1)
        await client.until_exited(container_id)
        await client.remove(container_id)
        await client.stop_sandbox(sandbox_id)
        await client.remove_sandbox(sandbox_id)
        await asyncio.sleep(0)
        reader.cancel()
    created, started, stopped, deleted = range(4)
    assert [(one.container_id, one.container_event_type) for one in told] == [
        (sandbox_id, created),
        (sandbox_id, started),
        (container_id, created),
        (container_id, started),
        (container_id, stopped),
        (container_id, deleted),
        (sandbox_id, stopped),
        (sandbox_id, deleted),
    ]
    exit_event = told[4]
    assert exit_event.pod_sandbox_status.id == sandbox_id
    assert [status.exit_code for status in exit_event.containers_statuses] == [1]
    assert exit_event.created_at > 0


async def _collect(client: Client, told: list[cri.ContainerEventResponse]) -> None:
    async for one in client.runtime.get_container_events(cri.GetEventsRequest()):
        told.append(one)  # noqa: PERF401 - it is read after the task was cancelled


async def _read(events: AsyncIterator[cri.ContainerEventResponse]) -> list[str]:
    return [one.container_id async for one in events]


async def _next(events: AsyncIterator[cri.ContainerEventResponse]) -> str:
    return (await anext(events)).container_id
