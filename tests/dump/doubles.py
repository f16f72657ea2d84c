"""Parts that do what their test says, put in by the front door."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc

from multicri_proxy.calls import Call, CallFailed, Metadata, Reply, Stream
from multicri_proxy.dump.dumper import Dumper, Listener
from multicri_proxy.dump.format import Formatter
from multicri_proxy.dump.record import Record, from_json_line
from multicri_proxy.dump.redact import Redactor
from multicri_proxy.dump.render import json_render
from multicri_proxy.dump.rules import Rules
from multicri_proxy.dump.subject import Wanted

RUNTIME = "/runtime.v1.RuntimeService/"
IMAGES = "/runtime.v1.ImageService/"


class ScriptedStream:
    """Gives messages, then ends, or fails, or waits for ever."""

    def __init__(self, *messages: bytes, failure: CallFailed | None = None, endless: bool = False) -> None:
        self.owner = "default"
        self.cancelled = False
        self._messages = messages
        self._failure = failure
        self._endless = endless

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for message in self._messages:
            yield message
        if self._failure:
            raise self._failure
        if self._endless:
            await asyncio.Event().wait()

    async def initial_metadata(self) -> Metadata:
        return (("initial", "1"),)

    async def trailing_metadata(self) -> Metadata:
        return (("trailing", "2"),)

    def cancel(self) -> None:
        self.cancelled = True


class ScriptedRuntime:
    """Answers each path with what its test has put there."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Call], Awaitable[Reply]]] = {}
        self.streams: dict[str, Stream] = {}
        self.asked: list[Call] = []

    def answer(self, path: str, message: bytes = b"", **more: object) -> None:
        async def reply(call: Call) -> Reply:
            return Reply(message=message, owner="default", **more)  # type: ignore[arg-type]

        self.answers[path] = reply

    async def call(self, call: Call) -> Reply:
        self.asked.append(call)
        if call.path not in self.answers:
            raise CallFailed(grpc.StatusCode.NOT_FOUND, "not here", owner="default")
        return await self.answers[call.path](call)

    async def stream(self, call: Call) -> Stream:
        self.asked.append(call)
        return self.streams[call.path]

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        self.asked.append(call)
        return ScriptedStream(*[message async for message in requests])


async def until(is_so: Callable[[], bool]) -> None:
    """A dump's end waits for two seconds: less than its formatter may take to start on a busy machine."""
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


class Collected:
    """A sink that keeps what it is given. stuck: set to keep it from writing."""

    def __init__(self) -> None:
        self.text = ""
        self.stuck = threading.Event()
        self.entered = threading.Event()
        self.failure: OSError | None = None
        self._free = threading.Event()

    def write(self, data: bytes) -> None:
        self.entered.set()
        if self.stuck.is_set():
            self._free.wait()
        if self.failure:
            raise self.failure
        self.text += data.decode()

    def release(self) -> None:
        self.stuck.clear()
        self._free.set()

    def abandon(self) -> None:
        self._free.set()

    def close(self) -> None:
        pass

    @property
    def records(self) -> list[Record]:
        return [from_json_line(line) for line in self.text.splitlines()]


def formatter(rules: str = "full:.*", *, redact: bool = False, wanted: Wanted | None = None) -> Formatter:
    return Formatter(
        rules=Rules.parse(rules),
        render=json_render(metadata=True),
        redactor=Redactor() if redact else None,
        wanted=wanted,
    )


@asynccontextmanager
async def collecting(
    dumper: Dumper, rules: str = "full:.*", *, redact: bool = False, wanted: Wanted | None = None
) -> AsyncIterator[Collected]:
    """A listener whose records are all there when it is left."""
    sink = Collected()
    listener = Listener("a test", formatter(rules, redact=redact, wanted=wanted), sink)
    async with dumper.listening(listener):
        yield sink
