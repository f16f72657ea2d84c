"""A unary request is told from a stream of them, and no message is lost either way."""

import asyncio
from collections.abc import AsyncIterator

from multicri_proxy.shape import Requests


async def sent(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def test_one_message_and_the_end_are_a_unary_request() -> None:
    assert await Requests(sent(b"only")).single() == b"only"


async def test_an_empty_message_is_a_unary_request_too() -> None:
    assert await Requests(sent(b"")).single() == b""


async def test_no_message_is_a_stream_that_has_ended() -> None:
    requests = Requests(sent())
    assert await requests.single() is None
    assert [message async for message in requests] == []


async def test_two_messages_are_a_stream_and_both_are_there() -> None:
    requests = Requests(sent(b"1", b"2", b"3"))
    assert await requests.single() is None
    assert [message async for message in requests] == [b"1", b"2", b"3"]


async def test_a_client_that_keeps_its_end_open_is_not_waited_for() -> None:
    go_on = asyncio.Event()

    async def open_ended() -> AsyncIterator[bytes]:
        yield b"1"
        await go_on.wait()
        yield b"2"

    requests = Requests(open_ended())
    assert await requests.single() is None
    messages = aiter(requests)
    assert await anext(messages) == b"1"
    go_on.set()
    assert await anext(messages) == b"2"


async def test_a_client_that_waits_for_the_runtime_to_speak_first_is_a_stream() -> None:
    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    requests = Requests(silent())
    assert await requests.single() is None
    requests.cancel()
