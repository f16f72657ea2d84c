"""The proxy's own socket: taken politely, left cleanly."""

import asyncio
import socket
import stat
from pathlib import Path

import grpc
import grpc.aio
import pytest

from interposer.conftest import Silent
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.local import LocalRuntime
from multicri_proxy.server import Server

UNARY = "/runtime.v1.RuntimeService/ContainerStatus"


def server(path: Path, drain_s: float = 0.1) -> Server:
    return Server(LocalRuntime("multicri", Silent()), path, drain_s=drain_s)


async def test_the_socket_is_for_its_owner_alone_and_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "made" / "proxy.sock"
    async with server(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with server(path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(UNARY)(b"", timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_socket_that_somebody_serves_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    async with server(path):
        with pytest.raises(FailedPrecondition, match="another process serves"):
            async with server(path):
                pass
        assert path.is_socket()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    path.write_text("precious")
    with pytest.raises(FailedPrecondition, match="is no socket"):
        async with server(path):
            pass
    assert path.read_text() == "precious"


async def test_a_path_that_no_socket_can_have_is_refused_by_its_length(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="longer than 107 bytes"):
        async with server(tmp_path / ("x" * 108)):
            pass


async def test_a_call_in_flight_ends_well_when_the_proxy_is_asked_to_stop(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        async def version(self, request: cri.VersionRequest) -> cri.VersionResponse:
            begun.set()
            await go_on.wait()
            return cri.VersionResponse(runtime_name="slow")

    path = tmp_path / "proxy.sock"
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        serving = Server(LocalRuntime("multicri", Slow()), path, drain_s=20)
        await serving.__aenter__()
        call = asyncio.ensure_future(channel.unary_unary("/runtime.v1.RuntimeService/Version")(b""))
        await asyncio.wait_for(begun.wait(), 60)
        stopping = asyncio.ensure_future(serving.__aexit__(None, None, None))
        go_on.set()
        assert b"slow" in await asyncio.wait_for(call, 60)
        await asyncio.wait_for(stopping, 60)
