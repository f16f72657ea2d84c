"""A proxy with a scripted backend, both in this process, with real sockets between them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest

from interposer import backend as scripted
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.interposer import Interposer
from multicri_proxy.local import LocalRuntime
from multicri_proxy.remote import RemoteRuntime
from multicri_proxy.routing import Router
from multicri_proxy.server import Server


class NothingOurs:
    """An adapter that has no objects."""

    def owns_sandbox(self, sandbox_id: str) -> bool:
        return False

    def owns_container(self, container_id: str) -> bool:
        return False

    def owns_image(self, name: str) -> bool:
        return False


class Silent:
    """An adapter's service in which nothing happens."""

    async def get_container_events(self, request: cri.GetEventsRequest) -> AsyncIterator[cri.ContainerEventResponse]:
        await asyncio.Event().wait()
        yield cri.ContainerEventResponse()


@dataclass
class Rig:
    """backend: behind the proxy. direct, proxied: channels to one and to the other."""

    backend: scripted.Backend
    direct: grpc.aio.Channel
    proxied: grpc.aio.Channel
    proxy_socket: Path


@asynccontextmanager
async def running_rig(tmp_path: Path) -> AsyncIterator[Rig]:
    backend_socket, proxy_socket = tmp_path / "runtime.sock", tmp_path / "proxy.sock"
    async with (
        scripted.serving(backend_socket) as backend,
        RemoteRuntime("default", str(backend_socket)) as remote,
        Server(
            Interposer(
                router=Router(handlers=("multicri",), endpoints=frozenset({"default"}), ours=NothingOurs()),
                endpoints={"default": remote},
                adapter=LocalRuntime("multicri", Silent()),
            ),
            proxy_socket,
            drain_s=0.2,
        ),
        grpc.aio.insecure_channel(f"unix:{backend_socket}", options=scripted.UNLIMITED) as direct,
        grpc.aio.insecure_channel(f"unix:{proxy_socket}", options=scripted.UNLIMITED) as proxied,
    ):
        yield Rig(backend=backend, direct=direct, proxied=proxied, proxy_socket=proxy_socket)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running_rig(tmp_path) as rig:
        yield rig


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all examples of a property test."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def shared_rig(runner: asyncio.Runner, tmp_path: Path) -> Iterator[Rig]:
    """A rig in the runner's loop."""
    making = running_rig(tmp_path)
    yield runner.run(making.__aenter__())
    runner.run(making.__aexit__(None, None, None))
