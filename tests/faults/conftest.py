"""Proxies before the real cluster; and at the end of each test, nothing that is left of its pods anywhere."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from main_job.conftest import account_of
from testbed import Testbed

from faults.looking import eventually, jobs_that_live, left_in_the_cluster

CONFIG = """\
remote_runtime_endpoints:
  default: {containerd}
slurm:
  known_hosts: {known_hosts}
  connect_timeout_s: 5
  command_timeout_s: {command_timeout_s}
  poll_interval_s: 1
{more}"""
HANDLER = "multicri"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A proxy, and the kubelet before it."""

    proxy: Proxy
    kubelet: Kubelet

    async def remove_everything(self) -> None:
        """As the kubelet does: again until it works. What was broken is whole again, but not at once."""
        async with asyncio.timeout(120):
            while sandboxes := [pod for pod in await self.kubelet.sandboxes() if pod.runtime_handler == HANDLER]:
                gone = await asyncio.gather(
                    *(self.kubelet.remove_sandbox(pod.id) for pod in sandboxes), return_exceptions=True
                )
                for error in filter(None, gone):
                    assert isinstance(error, grpc.aio.AioRpcError), error
                    assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED}, error
                if any(gone):
                    await asyncio.sleep(0.5)

    def records(self) -> list[tuple[str, str]]:
        """(space, key) of what the proxy remembers of pods, containers and jobs."""
        with closing(sqlite3.connect(self.proxy.directory / "resources" / "ledger.db")) as ledger:
            return list(
                ledger.execute("SELECT space, key FROM ledger WHERE space != 'images' AND key NOT LIKE 'image/%'")
            )


class MakeNode(Protocol):
    """more: lines of the configuration's section ``slurm``."""

    async def __call__(self, name: str = "node", command_timeout_s: int = 15, more: str = "") -> Node: ...


@pytest.fixture
def account(bed: Testbed) -> dict[str, str]:
    """alice, with little memory, so that many jobs fit in."""
    return account_of(bed, "alice") | {"JOB_CUSTOM_CONFIG": "--mem=10M"}


@pytest.fixture
def image(bed: Testbed) -> str:
    """The test bed's busybox as an image of a multicri pod."""
    return f"multicri/docker-repository.{bed.registry.busybox}"


@pytest.fixture
async def nodes(bed: Testbed, tmp_path: Path) -> AsyncIterator[MakeNode]:
    """Makes nodes, by name. At the end their pods are removed, and then looked for everywhere."""
    made: list[Node] = []
    async with AsyncExitStack() as stack:

        async def make(name: str = "node", command_timeout_s: int = 15, more: str = "") -> Node:
            directory = tmp_path / name
            directory.mkdir()
            config = directory / "config.yaml"
            config.write_text(
                CONFIG.format(
                    containerd=bed.node.socket,
                    known_hosts=bed.cluster.known_hosts,
                    command_timeout_s=command_timeout_s,
                    more=more,
                )
            )
            proxy = Proxy(directory, config)
            await proxy.start()
            stack.callback(proxy.terminate)
            kubelet = await stack.enter_async_context(Kubelet.of(proxy.socket_path, directory / "pods"))
            made.append(Node(proxy=proxy, kubelet=kubelet))
            return made[-1]

        yield make
        for node in made:
            if node.proxy.process is None:
                await node.proxy.start()
            await node.remove_everything()
            await eventually(partial(_forgot_all, node), lambda: f"records: {node.records()}")  # noqa: B023
    await eventually(lambda: not jobs_that_live(bed), lambda: f"jobs: {jobs_that_live(bed)}")
    await eventually(lambda: not left_in_the_cluster(bed), lambda: f"left over: {left_in_the_cluster(bed)}")


def _forgot_all(node: Node) -> bool:
    return not node.records()


@pytest.fixture
async def node(nodes: MakeNode) -> Node:
    return await nodes()
