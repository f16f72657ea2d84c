"""A proxy with a tap and an admin socket before a scripted runtime, all over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
from interposer import backend as scripted
from interposer.conftest import NothingOurs, Silent

from dump.doubles import RUNTIME
from multicri_proxy.admin import AdminServer
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.attach import dump_command
from multicri_proxy.dump.dumper import Dumper
from multicri_proxy.dump.redact import DEFAULT_NAMES
from multicri_proxy.dump.tap import Tap
from multicri_proxy.interposer import Interposer
from multicri_proxy.local import LocalRuntime
from multicri_proxy.remote import RemoteRuntime
from multicri_proxy.routing import Router
from multicri_proxy.server import Server


class Empty(Silent):
    """An adapter's service without pods."""

    async def list_pod_sandbox(self, request: cri.ListPodSandboxRequest) -> cri.ListPodSandboxResponse:
        return cri.ListPodSandboxResponse()

    async def list_containers(self, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
        return cri.ListContainersResponse()


@dataclass
class Daemon:
    """backend: the runtime behind it. channel: the kubelet's connection."""

    backend: scripted.Backend
    channel: grpc.aio.Channel
    dumper: Dumper
    admin_socket: Path

    async def call(self, method: str, request: bytes = b"") -> bytes:
        path = method if method.startswith("/") else f"{RUNTIME}{method}"
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        return await ask(request, timeout=10)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    runtime_socket, proxy_socket, admin_socket = (tmp_path / f"{name}.sock" for name in ("runtime", "proxy", "admin"))
    dumper = Dumper()
    async with (
        scripted.serving(runtime_socket) as backend,
        RemoteRuntime("default", str(runtime_socket)) as remote,
    ):
        interposer = Interposer(
            router=Router(handlers=("multicri",), endpoints=frozenset({"default"}), ours=NothingOurs()),
            endpoints={"default": remote},
            adapter=LocalRuntime("multicri", Empty()),
        )
        async with (
            AdminServer(admin_socket, {"dump": dump_command(dumper, interposer, lambda: DEFAULT_NAMES)}),
            Server(Tap(interposer, dumper), proxy_socket, drain_s=0.2),
            grpc.aio.insecure_channel(f"unix:{proxy_socket}", options=scripted.UNLIMITED) as channel,
        ):
            yield Daemon(backend=backend, channel=channel, dumper=dumper, admin_socket=admin_socket)
