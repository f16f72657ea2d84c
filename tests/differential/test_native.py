"""Services that the proxy has never heard of, metadata, deadlines and cancellations reach containerd as they are."""

import asyncio
from contextlib import suppress

import grpc
import grpc.aio
import pytest
from testbed import Testbed

from differential.calls import Sent, see
from differential.comparing import assert_none, differences_of_calls
from differential.conftest import Sides
from differential.native import EVENTS, blobs, native_calls, read_blob
from differential.sequences import call_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed


def test_containerds_own_services_answer_as_without_the_proxy(sides: Sides, bed: Testbed) -> None:
    calls = native_calls(sides.standing.image, blobs(bed)[0])
    assert_none(sides.runner.run(differences_of_calls(sides.direct, sides.proxied, calls)))


def test_a_blob_comes_in_the_pieces_that_containerd_cuts_it_into(sides: Sides, bed: Testbed) -> None:
    pieces = 0
    for digest in blobs(bed):
        direct, proxied = [sides.runner.run(see(way, read_blob(digest))) for way in (sides.direct, sides.proxied)]
        assert proxied == direct
        pieces = max(pieces, len(proxied.messages))
    assert pieces > 1


async def first_event(channel: grpc.aio.Channel, kubelet_does: Sent, sides: Sides) -> bytes:
    """The first event that a call leads to."""
    subscribe: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(EVENTS)
    events = subscribe(b"", timeout=20)
    reading = asyncio.ensure_future(anext(aiter(events)))
    async with asyncio.timeout(60):
        while not reading.done():  # a subscription says nothing of its beginning
            await see(sides.direct, kubelet_does)
            await asyncio.wait({reading}, timeout=0.05)
    events.cancel()
    return reading.result()


def test_an_event_comes_when_it_happens_on_a_stream_that_never_ends(sides: Sides) -> None:
    tag = call_of(cri.PullImageRequest(image=cri.ImageSpec(image=sides.standing.image)))
    for way in (sides.direct, sides.proxied):
        assert b"/images/" in sides.runner.run(first_event(way, tag, sides))


@pytest.mark.parametrize("ends_by", ["its deadline", "its client's cancellation"])
def test_a_call_that_ends_early_ends_in_containerd_too(sides: Sides, ends_by: str) -> None:
    """containerd kills the process of an ExecSync whose call has ended."""
    sides.runner.run(exec_and_leave(sides, sides.direct, ends_by))
    sides.runner.run(exec_and_leave(sides, sides.proxied, ends_by))


async def exec_and_leave(sides: Sides, channel: grpc.aio.Channel, ends_by: str) -> None:
    container = sides.standing.running
    seconds = "977"
    request = cri.ExecSyncRequest(container_id=container, cmd=["sleep", seconds]).SerializeToString()
    exec_sync: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
        "/runtime.v1.RuntimeService/ExecSync"
    )
    rpc = exec_sync(request, timeout=2 if ends_by == "its deadline" else 60)

    async def runs() -> bool:
        looking = call_of(cri.ExecSyncRequest(container_id=container, cmd=["ps"], timeout=20))
        [answer] = (await see(sides.direct, looking)).messages
        return f"sleep {seconds}".encode() in cri.ExecSyncResponse.FromString(answer).stdout

    ending = asyncio.ensure_future(rpc.code())
    async with asyncio.timeout(60):
        while not await runs():
            assert not ending.done()
        if ends_by != "its deadline":
            rpc.cancel()
        assert await ending in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
        while await runs():
            await asyncio.sleep(0.05)
    with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        await rpc
