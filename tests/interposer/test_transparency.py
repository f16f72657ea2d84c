"""What a client sees through the proxy is what it sees without it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interposer.backend import Context
from interposer.conftest import Rig
from multicri_proxy.remote import MESSAGE_LIMIT_BYTES

UNARY = "/runtime.v1.RuntimeService/ContainerStatus"
STREAM = "/runtime.v1.ImageService/StreamImagesOfNextYear"
UNKNOWN = "/runtime.v9.RuntimeService/NotBornYet"


@dataclass(frozen=True)
class Seen:
    """All that a client can see of an answer."""

    messages: tuple[bytes, ...]
    initial: tuple[tuple[str, str | bytes], ...]
    trailing: tuple[tuple[str, str | bytes], ...]
    code: grpc.StatusCode
    details: str


async def see(
    channel: grpc.aio.Channel, path: str, *requests: bytes, metadata: tuple[tuple[str, str | bytes], ...] = ()
) -> Seen:
    rpc = channel.stream_stream(path)(iter(requests), metadata=metadata, timeout=20)
    messages = []
    try:
        async for message in rpc:
            messages.append(message)  # noqa: PERF401  (what came before an error counts)
    except grpc.aio.AioRpcError:
        pass
    return Seen(
        messages=tuple(messages),
        initial=tuple(await rpc.initial_metadata() or ()),
        trailing=tuple(await rpc.trailing_metadata() or ()),
        code=await rpc.code(),
        details=await rpc.details(),
    )


metadata_keys = st.from_regex(r"x-[a-z0-9_.-]{1,20}", fullmatch=True).filter(lambda key: not key.endswith("-bin"))
metadata = st.lists(
    st.one_of(
        st.tuples(metadata_keys, st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40)),
        st.tuples(metadata_keys.map(lambda key: f"{key}-bin"), st.binary(max_size=40)),
    ),
    max_size=5,
    unique_by=lambda item: item[0],
).map(tuple)
answers = st.builds(
    Seen,
    messages=st.lists(st.binary(max_size=2000), max_size=4).map(tuple),
    initial=metadata,
    trailing=metadata,
    code=st.sampled_from(list(grpc.StatusCode)),
    details=st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
)


@pytest.mark.parametrize("path", [UNARY, STREAM, UNKNOWN])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=answers, request_bytes=st.binary(max_size=2000), sent=metadata)
def test_every_answer_to_every_method_is_the_same_with_and_without_the_proxy(
    runner: asyncio.Runner, shared_rig: Rig, path: str, answer: Seen, request_bytes: bytes, sent: object
) -> None:
    messages = answer.messages
    if path == UNARY:  # one message if all is well, none if not
        messages = (answer.messages or (b"",))[:1] if answer.code is grpc.StatusCode.OK else ()
    received: list[tuple[object, ...]] = []

    async def behave(requests: AsyncIterator[bytes], context: Context) -> None:
        own = {"user-agent"}
        keys = tuple((k, v) for k, v in context.invocation_metadata() or () if k not in own)
        received.append((tuple([message async for message in requests]), keys))
        await context.send_initial_metadata(answer.initial)
        for message in messages:
            await context.write(message)
        context.set_trailing_metadata(answer.trailing)
        context.set_code(answer.code)
        context.set_details(answer.details)

    async def compare() -> None:
        shared_rig.backend.behaviours[path] = behave
        direct = await see(shared_rig.direct, path, request_bytes, metadata=sent)  # type: ignore[arg-type]
        proxied = await see(shared_rig.proxied, path, request_bytes, metadata=sent)  # type: ignore[arg-type]
        assert proxied == direct
        assert received[0] == received[1]

    runner.run(compare())


async def test_error_details_and_large_trailing_metadata_pass(rig: Rig) -> None:
    rich = bytes(range(256)) * 200

    async def behave(requests: AsyncIterator[bytes], context: Context) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "näh: no such container", (("grpc-status-details-bin", rich),))

    rig.backend.behaviours[UNARY] = behave
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        big = (("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20))
        async with grpc.aio.insecure_channel(f"unix:{rig.proxy_socket}", options=big) as channel:
            await channel.unary_unary(UNARY)(b"")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == "näh: no such container"
    assert dict(raised.value.trailing_metadata())["grpc-status-details-bin"] == rich  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [UNARY, UNKNOWN])
async def test_a_message_of_the_limit_passes_and_a_larger_one_is_refused(rig: Rig, path: str) -> None:
    async def echo(requests: AsyncIterator[bytes], context: Context) -> None:
        async for message in requests:
            await context.write(message)

    rig.backend.behaviours[path] = echo
    largest = b"\xff" * MESSAGE_LIMIT_BYTES
    assert (await see(rig.proxied, path, largest)).messages == (largest,)
    assert (await see(rig.proxied, path, largest + b"!")).code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("path", [UNARY, UNKNOWN])
async def test_the_runtime_gets_the_callers_deadline(rig: Rig, path: str) -> None:
    remaining: asyncio.Queue[float | None] = asyncio.Queue()

    async def behave(requests: AsyncIterator[bytes], context: Context) -> None:
        remaining.put_nowait(context.time_remaining())
        await context.write(b"")

    rig.backend.behaviours[path] = behave
    await see(rig.proxied, path, b"")
    with_deadline = await remaining.get()
    await rig.proxied.stream_stream(path)(iter([b""])).read()  # type: ignore[func-returns-value]
    without = await remaining.get()
    assert with_deadline is not None
    assert 10 < with_deadline <= 20.5  # gRPC rounds a timeout up on the wire
    assert without is None


@pytest.mark.parametrize("path", [UNARY, UNKNOWN, "/runtime.v1.RuntimeService/GetContainerEvents"])
async def test_a_client_that_cancels_cancels_the_call_to_the_runtime(rig: Rig, path: str) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def behave(requests: AsyncIterator[bytes], context: Context) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    rig.backend.behaviours[path] = behave
    rpc = rig.proxied.stream_stream(path)(iter([b""]))
    reading = asyncio.ensure_future(rpc.read())
    await asyncio.wait_for(begun.wait(), 60)
    rpc.cancel()
    await asyncio.wait_for(cancelled.wait(), 60)
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_messages_of_a_stream_come_as_they_are_sent_in_both_directions(rig: Rig) -> None:
    async def echo(requests: AsyncIterator[bytes], context: Context) -> None:
        async for message in requests:
            await context.write(message)

    rig.backend.behaviours[UNKNOWN] = echo
    rpc = rig.proxied.stream_stream(UNKNOWN)()
    for message in (b"one", b"two", b""):
        await rpc.write(message)
        assert await asyncio.wait_for(rpc.read(), 60) == message
    await rpc.done_writing()
    assert await asyncio.wait_for(rpc.read(), 60) is grpc.aio.EOF
