"""A node whose containers are processes of this machine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime.doubles import Client, Cluster, Node

from multicri_proxy.api.adapter import Phase
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.streaming.server import Limits
from streaming.local_adapter import LocalAdapter


class Streaming:
    """A running container, and URLs for it. upgrades: requests that came through an API server."""

    def __init__(self, client: Client, adapter: LocalAdapter, sandbox_id: str, container_id: str) -> None:
        self.client, self.adapter = client, adapter
        self.sandbox_id, self.container_id = sandbox_id, container_id
        self.upgrades: list[bytes] = []

    async def exec_url(self, *command: str, stdin: bool = False, stderr: bool = True, tty: bool = False) -> str:
        request = cri.ExecRequest(
            container_id=self.container_id, cmd=command, stdin=stdin, stdout=True, stderr=stderr and not tty, tty=tty
        )
        return (await self.client.runtime.exec(request)).url

    async def attach_url(self) -> str:
        request = cri.AttachRequest(container_id=self.container_id, stdin=True, stdout=True)
        return (await self.client.runtime.attach(request)).url

    async def forward_url(self, *ports: int) -> str:
        request = cri.PortForwardRequest(pod_sandbox_id=self.sandbox_id, port=ports)
        return (await self.client.runtime.port_forward(request)).url


@pytest.fixture
def limits() -> Limits:
    return Limits(linger_s=60, request_s=60)


@pytest.fixture
def streaming_node(tmp_path: Path, limits: Limits) -> Node:
    node = Node(tmp_path)
    node.limits = limits
    return node


@pytest.fixture
async def streaming(streaming_node: Node) -> AsyncIterator[Streaming]:
    adapters: list[LocalAdapter] = []

    def make(cluster: Cluster) -> LocalAdapter:
        adapters.append(LocalAdapter(cluster))
        return adapters[-1]

    streaming_node.make_adapter = make
    async with streaming_node.running() as runtime:
        client = Client(streaming_node, runtime)
        sandbox_id = await client.sandbox()
        container_id = await client.started(sandbox_id)
        await streaming_node.cluster.report(container_id, Phase.RUNNING)
        while not runtime.counts().get(Phase.RUNNING.value):
            await asyncio.sleep(0.001)
        yield Streaming(client, adapters[0], sandbox_id, container_id)
