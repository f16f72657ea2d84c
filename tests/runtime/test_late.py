"""An adapter that is imported when there is something for it to do."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from multicri_proxy.api.adapter import Adapter, AdapterContext, AdapterFactory, OutputStream, Phase, Store
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.late import LateAdapter
from multicri_proxy.secrets import SealedSecrets
from runtime.doubles import Client, Cluster, MemoryAdapter, Node


class MemoryStore(Store):
    def __init__(self, *rows: tuple[str, bytes]) -> None:
        self.rows = dict(rows)

    async def put(self, key: str, value: bytes) -> None:
        self.rows[key] = value

    async def delete(self, key: str) -> None:
        del self.rows[key]

    async def items(self) -> Sequence[tuple[str, bytes]]:
        return list(self.rows.items())


class LateNode(Node):
    """loads: how often the adapter was imported. failures: what its import raises."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.store = MemoryStore()
        self.loads = 0
        self.is_needed = False
        self.failures: list[Exception] = []
        self.make_adapter = self._late

    def _late(self, _: Cluster) -> Adapter:
        secrets = SealedSecrets.from_file(self.directory / "key")
        context = AdapterContext(settings={}, store=self.store, secrets=secrets, images=self.images, image_builders=())
        return LateAdapter("memory", self._load, context, is_needed=self.is_needed)

    def _load(self) -> AdapterFactory:
        if self.failures:
            raise self.failures.pop()
        self.loads += 1
        return lambda context: MemoryAdapter(self.cluster)


@pytest.fixture
def node(tmp_path: Path) -> LateNode:
    return LateNode(tmp_path)


async def test_a_node_without_containers_never_imports_it(node: LateNode, client: Client) -> None:
    sandbox_id = await client.sandbox()
    assert not (await client.runtime.list_containers(cri.ListContainersRequest())).containers
    assert not (await client.runtime.list_container_stats(cri.ListContainerStatsRequest())).stats
    await client.stop_sandbox(sandbox_id)
    await client.remove_sandbox(sandbox_id)
    assert not node.loads
    assert not node.cluster.calls


async def test_containers_that_come_at_once_import_it_once_and_live_as_they_do_otherwise(
    node: LateNode, client: Client
) -> None:
    sandbox_id = await client.sandbox()
    first, second = await asyncio.gather(*(client.started(sandbox_id, name) for name in ("a", "b")))
    assert node.loads == 1
    assert [method for method, _ in node.cluster.calls].count("adopt") == 1
    await node.cluster.write(first, OutputStream.STDOUT, b"hello\n")
    await node.cluster.report(first, Phase.EXITED, exit_code=3)
    status = await client.until_exited(first)
    assert status.exit_code == 3
    assert node.log("a").endswith(b"stdout F hello\n")
    await client.stop(second)
    assert (await client.status(second)).exit_code == 143


async def test_it_is_there_at_once_if_there_are_containers(node: LateNode) -> None:
    async with node.running() as runtime:
        client = Client(node, runtime)
        container_id = await client.started(await client.sandbox())
    async with node.running() as runtime:
        await node.cluster.called("adopt", times=2)
        await node.cluster.report(container_id, Phase.EXITED, exit_code=0)
        assert (await Client(node, runtime).until_exited(container_id)).reason == "Completed"
    assert node.loads == 2


async def test_it_is_there_at_once_if_it_remembers_what_nobody_else_does(node: LateNode) -> None:
    node.store.rows["left"] = b"over"
    async with node.running():
        await node.cluster.called("adopt")
    assert node.loads == 1


async def test_an_import_that_fails_fails_one_call_and_is_tried_again(node: LateNode, client: Client) -> None:
    node.failures = [OSError("no space left on device")]
    sandbox_id = await client.sandbox()
    with pytest.raises(OSError, match="no space"):
        await client.container(sandbox_id)
    await client.container(sandbox_id)
    assert node.loads == 1


async def test_it_is_imported_without_a_container_where_all_that_comes_is_its_own(node: LateNode) -> None:
    node.is_needed = True
    async with node.running():
        await node.cluster.called("adopt")
    assert node.loads == 1
