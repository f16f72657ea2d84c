"""Messages that the real containerd finds too large are refused in its words, not in ours."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from testbed import Testbed

from interposer.conftest import NothingOurs, Silent
from interposer.test_transparency import see
from multicri_proxy.interposer import Interposer
from multicri_proxy.local import LocalRuntime
from multicri_proxy.remote import RemoteRuntime
from multicri_proxy.routing import Router
from multicri_proxy.server import Server

pytestmark = pytest.mark.testbed

CONTAINERDS_LIMIT_BYTES = 16 * 1024 * 1024
"""The kubelet's, too."""


@pytest.fixture
async def proxied(bed: Testbed, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        RemoteRuntime("default", str(bed.node.socket)) as remote,
        Server(
            Interposer(
                router=Router(handlers=("multicri",), endpoints=frozenset({"default"}), ours=NothingOurs()),
                endpoints={"default": remote},
                adapter=LocalRuntime("multicri", Silent()),
            ),
            tmp_path / "proxy.sock",
            drain_s=0.2,
        ),
        grpc.aio.insecure_channel(f"unix:{tmp_path}/proxy.sock") as channel,
    ):
        yield channel


@pytest.mark.parametrize("path", ["runtime.v1.RuntimeService/Version", "containerd.services.events.v1.Events/Publish"])
@pytest.mark.parametrize("more_bytes", [0, 1, 1024 * 1024])
async def test_a_message_about_containerds_limit_gets_its_own_answer(
    bed: Testbed, proxied: grpc.aio.Channel, path: str, more_bytes: int
) -> None:
    request = bytes([0x12]) + bytes(CONTAINERDS_LIMIT_BYTES + more_bytes - 1)
    async with grpc.aio.insecure_channel(f"unix:{bed.node.socket}") as channel:
        direct = await see(channel, f"/{path}", request)
    answer = await see(proxied, f"/{path}", request)
    assert (answer.code, answer.details, answer.trailing) == (direct.code, direct.details, direct.trailing)
    assert (direct.code is grpc.StatusCode.RESOURCE_EXHAUSTED) is (more_bytes > 0)
