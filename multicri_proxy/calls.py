"""A CRI call on its way through the proxy, and what answers one.

Everything behind the server is a `Runtime`: a socket with a runtime behind it, an adapter in this process,
or one made of several. Messages are bytes: whoever must look inside decodes them, nobody else does.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Protocol

import grpc

Metadata = tuple[tuple[str, str | bytes], ...]
"""gRPC metadata in its order; values of keys that end in ``-bin`` are bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What the client asked. timeout_s: time left of its deadline; None if it has none."""

    path: str
    request: bytes
    metadata: Metadata = ()
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A unary call's answer with status OK. owner: the name of the runtime that gave it."""

    message: bytes
    owner: str = ""
    initial_metadata: Metadata = ()
    trailing_metadata: Metadata = ()

    def with_more(self, message: bytes) -> "Reply":
        """The same reply with a second serialized message of its type merged in."""
        return replace(self, message=self.message + message)


class CallFailed(Exception):
    """A call's answer with any other status, exactly as it goes to the client."""

    def __init__(
        self,
        code: grpc.StatusCode,
        details: str,
        *,
        owner: str = "",
        initial_metadata: Metadata = (),
        trailing_metadata: Metadata = (),
    ) -> None:
        super().__init__(code, details)
        self.owner = owner
        self.code = code
        self.details = details
        self.initial_metadata = initial_metadata
        self.trailing_metadata = trailing_metadata


class Unreadable(CallFailed):
    """A request that this process cannot decode. Another runtime may read it, or refuse it in its own words."""


class Stream(Protocol):
    """The answer to a streaming call: iterate it once, to its end. Raises CallFailed for a status that is not OK."""

    @property
    def owner(self) -> str:
        """The name of the runtime that gives it."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def initial_metadata(self) -> Metadata:
        """Waits for the answer's beginning."""
        ...

    async def trailing_metadata(self) -> Metadata:
        """To be asked after the last message."""
        ...

    def cancel(self) -> None:
        """Nobody wants the rest."""
        ...


class StreamAround:
    """A stream that is another one, seen: what wraps a stream overrides how it is iterated."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    @property
    def owner(self) -> str:
        return self.stream.owner

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self.stream)

    async def initial_metadata(self) -> Metadata:
        return await self.stream.initial_metadata()

    async def trailing_metadata(self) -> Metadata:
        return await self.stream.trailing_metadata()

    def cancel(self) -> None:
        self.stream.cancel()


class Runtime(Protocol):
    """Answers CRI calls."""

    async def call(self, call: Call) -> Reply:
        """A unary call. Raises CallFailed."""
        ...

    async def stream(self, call: Call) -> Stream:
        """A call with one request and many answers."""
        ...

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        """A call of unknown shape: any number of messages in both directions. ``call.request`` is empty."""
        ...
