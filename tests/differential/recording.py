"""Forwarders of our own making between a client and containerd: one that writes down, others that do what is forbidden.

They are made of the proxy's own parts, each with one change.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from differential.calls import Sent
from multicri_proxy.calls import Call, CallFailed, Reply, Runtime, Stream, StreamAround
from multicri_proxy.remote import RemoteRuntime
from multicri_proxy.server import Server


class Recorder:
    """Passes everything on, and keeps the calls."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.calls: list[Sent] = []

    async def call(self, call: Call) -> Reply:
        metadata = tuple(item for item in call.metadata if item[0] != "user-agent")
        self.calls.append(Sent(path=call.path, request=call.request, metadata=metadata))
        return await self._runtime.call(call)

    async def stream(self, call: Call) -> Stream:
        self.calls.append(Sent(path=call.path, request=call.request))
        return await self._runtime.stream(call)

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        raise NotImplementedError("what is recorded is known")


class Forger:
    """Passes everything on, changed.

    asked: changes calls. replied: changes answers. refused: changes errors. streamed: changes the messages of streams.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        asked: Callable[[Call], Call] = lambda call: call,
        replied: Callable[[Reply], Reply] = lambda reply: reply,
        refused: Callable[[CallFailed], CallFailed] = lambda failure: failure,
        streamed: Callable[[list[bytes]], Sequence[bytes]] = lambda messages: messages,
    ) -> None:
        self._runtime = runtime
        self._asked = asked
        self._replied = replied
        self._refused = refused
        self._streamed = streamed

    async def call(self, call: Call) -> Reply:
        try:
            return self._replied(await self._runtime.call(self._asked(call)))
        except CallFailed as failure:
            raise self._refused(failure) from failure

    async def stream(self, call: Call) -> Stream:
        return _Forged(await self._runtime.stream(self._asked(call)), self._streamed)

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        return _Forged(await self._runtime.relay(self._asked(call), requests), self._streamed)


class _Forged(StreamAround):
    def __init__(self, stream: Stream, streamed: Callable[[list[bytes]], Sequence[bytes]]) -> None:
        super().__init__(stream)
        self._streamed = streamed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for message in self._streamed([message async for message in self.stream]):
            yield message


@asynccontextmanager
async def recording(containerd: Path, socket_path: Path) -> AsyncIterator[Recorder]:
    """Serves a recorder before containerd."""
    async with RemoteRuntime("default", str(containerd)) as remote:
        recorder = Recorder(remote)
        async with Server(recorder, socket_path, drain_s=0.1):
            yield recorder
