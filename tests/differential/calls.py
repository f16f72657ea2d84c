"""One call to a runtime, and all that its client sees of the answer."""

from dataclasses import dataclass

import grpc
import grpc.aio

Metadata = tuple[tuple[str, str | bytes], ...]

PATIENCE_S = 30.0
"""The deadline of a call that is not about deadlines: longer than any of them takes."""

OPTIONS = (
    ("grpc.default_authority", "localhost"),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A call as its client makes it."""

    path: str
    request: bytes = b""
    metadata: Metadata = ()
    timeout_s: float = PATIENCE_S

    @property
    def method(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that a client can see of an answer."""

    messages: tuple[bytes, ...]
    initial: Metadata
    trailing: Metadata
    code: grpc.StatusCode
    details: str


async def see(channel: grpc.aio.Channel, sent: Sent) -> Seen:
    """Make the call. One request and any number of answers: on the wire a unary call is the same."""
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(sent.path)
    rpc = method(sent.request, metadata=sent.metadata, timeout=sent.timeout_s)
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
        details=await rpc.details() or "",
    )
