"""A runtime behind a unix socket: forwards bytes, both ways, and adds nothing."""

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from multicri_proxy.bridge import Bridge
from multicri_proxy.calls import Call, CallFailed, Metadata, Reply, Stream
from multicri_proxy.shape import Requests
from multicri_proxy.unary import UnaryCalls

MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
"""Beyond what the kubelet and containerd take (16 MiB), so that each refuses the other's in its own words."""
METADATA_LIMIT_BYTES = 16 * 1024 * 1024

LIMITS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_metadata_size", METADATA_LIMIT_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_LIMIT_BYTES),
    # windows that do not grow: on a unix socket a larger one only holds more back from a slow reader
    ("grpc.http2.bdp_probe", 0),
)
"""For both sides of the proxy. gRPC's own limit for metadata, 8 KiB, would cut what Go runtimes send in a status."""

_OPTIONS = (
    *LIMITS,
    ("grpc.default_authority", "localhost"),  # what Go clients send on a unix socket
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # the time that a new connection gets: the kubelet's own
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)

_OWN_METADATA = frozenset({"user-agent"})
"""gRPC writes these itself, for each connection anew."""


_PAUSED = grpc.ChannelConnectivity.TRANSIENT_FAILURE


class RemoteRuntime:
    """The runtime that listens on a socket. It need not be there yet: a call fails with Unavailable until it is."""

    def __init__(self, name: str, socket_path: str) -> None:
        self.name = name
        self._socket_path = socket_path
        self._bridge = Bridge()
        self._channel = grpc.aio.insecure_channel(f"unix:{socket_path}", options=_OPTIONS)
        self._unary = UnaryCalls(name, self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def call(self, call: Call) -> Reply:
        path = self._bridge.path(call.path)
        try:
            return await self._ask(path, call)
        except CallFailed as failure:
            other = self._bridge.other(path, failure)
            if other is None:
                raise
            try:
                reply = await self._ask(other, call)
            except CallFailed as second:
                if second.code is grpc.StatusCode.UNIMPLEMENTED:
                    raise failure from second
                self._bridge.knows(other)
                raise
        self._bridge.knows(other)
        return reply

    async def _ask(self, path: str, call: Call) -> Reply:
        return await self._unary.ask(path, call, metadata=_forwarded(call.metadata), wait_for_ready=self._is_back())

    async def stream(self, call: Call) -> Stream:
        rpc: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(self._bridge.path(call.path))
        started = rpc(
            call.request,
            timeout=call.timeout_s,
            metadata=_forwarded(call.metadata),
            wait_for_ready=self._is_back(),
        )
        return _RemoteStream(self.name, started)

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        messages = Requests(requests)
        single = await messages.single()
        if single is not None:
            return await self.stream(replace(call, request=single))
        rpc: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(call.path)
        started = rpc(
            aiter(messages),
            timeout=call.timeout_s,
            metadata=_forwarded(call.metadata),
            wait_for_ready=self._is_back(),
        )
        return _RemoteStream(self.name, started)

    def _is_back(self) -> bool:
        """Whether the runtime listens again while gRPC still pauses before it tries: then a call can wait for that."""
        if self._channel.get_state() is not _PAUSED:
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            return probe.connect_ex(self._socket_path) == 0


class _RemoteStream:
    def __init__(
        self, owner: str, rpc: "grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes]"
    ) -> None:
        self.owner = owner
        self._rpc = rpc

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for message in self._rpc:
                yield message
        except grpc.aio.AioRpcError as error:
            raise _failure(self.owner, error) from error
        finally:
            self._rpc.cancel()

    async def initial_metadata(self) -> Metadata:
        return _metadata(await self._rpc.initial_metadata())

    async def trailing_metadata(self) -> Metadata:
        return _metadata(await self._rpc.trailing_metadata())

    def cancel(self) -> None:
        self._rpc.cancel()


def _forwarded(metadata: Metadata) -> Metadata:
    return tuple([item for item in metadata if item[0] not in _OWN_METADATA])  # a list's loop is a call's cheapest


def _metadata(received: grpc.aio.Metadata | None) -> Metadata:
    return tuple(received) if received else ()


def _failure(owner: str, error: grpc.aio.AioRpcError) -> CallFailed:
    """Without initial metadata: a stream's own is on its way already."""
    return CallFailed(
        error.code(),
        error.details() or "",
        owner=owner,
        trailing_metadata=_metadata(error.trailing_metadata()),
    )
