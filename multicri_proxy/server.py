"""The kubelet's side: a unix socket, one generic handler, bytes in, bytes out."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Never, Self

import grpc
import grpc.aio

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_proxy.api.log import Log
from multicri_proxy.calls import Call, CallFailed, Runtime, Stream
from multicri_proxy.methods import METHODS, Merge, Method
from multicri_proxy.remote import LIMITS

log = Log("server")

_LONGEST_SOCKET_PATH = 107
"""sun_path of unix(7), without its closing NUL."""

_OPTIONS = (
    *LIMITS,
    # a client that pings more often than gRPC's default allows is the runtime's to refuse, not ours
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)

_Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may talk to a socket. uid, gid: -1 for ours."""

    mode: int = 0o600
    uid: int = -1
    gid: int = -1


class Server:
    """Serves a `Runtime` on a unix socket from entering to leaving.

    drain_s: how long calls in flight may go on when it is left; event streams never end by themselves.
    Raises InvalidArgument if the path cannot be one of a socket, FailedPrecondition if somebody listens there.
    """

    def __init__(self, runtime: Runtime, socket_path: Path, *, access: Access = Access(), drain_s: float = 5.0) -> None:
        self._runtime = runtime
        self._socket_path = socket_path
        self._access = access
        self._drain_s = drain_s
        self._server = grpc.aio.server(options=_OPTIONS)
        self._endless: set[asyncio.Task[None]] = set()
        self._server.add_generic_rpc_handlers((_Handlers(runtime, self._endless),))

    async def __aenter__(self) -> Self:
        path = str(self._socket_path)
        _claim(self._socket_path)
        umask = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise FailedPrecondition(f"cannot listen on {path}: {error}") from error
        finally:
            os.umask(umask)
        try:
            os.chown(path, self._access.uid, self._access.gid)
        except PermissionError as error:
            raise FailedPrecondition(f"cannot give {path} to its owner: only root can") from error
        self._socket_path.chmod(self._access.mode)
        await self._server.start()
        log.info("serving", socket_path=path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        log.info("draining", at_most_s=self._drain_s)
        for stream in self._endless:  # of events: it would be waited for in vain
            stream.cancel()
        await self._server.stop(self._drain_s)
        self._socket_path.unlink(missing_ok=True)


def _claim(path: Path) -> None:
    """Make way for our socket, if what lies there is a socket that nobody listens on."""
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise InvalidArgument(f"socket path {path} is longer than {_LONGEST_SOCKET_PATH} bytes: choose a shorter one")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    if not path.is_socket():
        raise FailedPrecondition(f"{path} is there and is no socket: remove it or choose another --socket-path")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            log.info("replacing a stale socket", socket_path=path)
            path.unlink()
        else:
            raise FailedPrecondition(f"another process serves {path}: stop it or choose another --socket-path")


class _Handlers(grpc.GenericRpcHandler):
    """Every method there is: known unary ones, known streams, and whatever else comes."""

    def __init__(self, runtime: Runtime, endless: set[asyncio.Task[None]]) -> None:
        self._known = {path: _known(runtime, path, row, endless) for path, row in METHODS.items()}
        self._runtime = runtime

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        path = handler_call_details.method
        return self._known.get(path) or _unknown(self._runtime, path)


def _known(
    runtime: Runtime, path: str, method: Method, endless: set[asyncio.Task[None]]
) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def unary(request: bytes, context: _Context) -> bytes:
        try:
            reply = await runtime.call(_call(path, request, context))
        except CallFailed as failure:
            await _fail(context, failure)
        if reply.initial_metadata:
            await context.send_initial_metadata(reply.initial_metadata)
        if reply.trailing_metadata:
            context.set_trailing_metadata(reply.trailing_metadata)
        return reply.message

    async def stream(request: bytes, context: _Context) -> None:
        if method.merge is Merge.UNTIL_ANY_ENDS and (task := asyncio.current_task()):
            endless.add(task)
            task.add_done_callback(endless.discard)
        try:
            await _forward(await runtime.stream(_call(path, request, context)), context)
        except CallFailed as failure:
            await _fail(context, failure)

    if method.streaming:
        return grpc.unary_stream_rpc_method_handler(stream)
    return grpc.unary_unary_rpc_method_handler(unary)


def _unknown(runtime: Runtime, path: str) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def relay(requests: AsyncIterator[bytes], context: _Context) -> None:
        try:
            await _forward(await runtime.relay(_call(path, b"", context), aiter(requests)), context)
        except CallFailed as failure:
            await _fail(context, failure)

    return grpc.stream_stream_rpc_method_handler(relay)


def _call(path: str, request: bytes, context: _Context) -> Call:
    return Call(
        path=path,
        request=request,
        metadata=tuple(context.invocation_metadata() or ()),
        timeout_s=context.time_remaining(),
    )


async def _forward(stream: Stream, context: _Context) -> None:
    try:
        if initial_metadata := await stream.initial_metadata():
            await context.send_initial_metadata(initial_metadata)
        async for message in stream:
            await context.write(message)
        context.set_trailing_metadata(await stream.trailing_metadata())
    except asyncio.CancelledError:
        stream.cancel()
        raise


async def _fail(context: _Context, failure: CallFailed) -> Never:
    if failure.initial_metadata:
        await context.send_initial_metadata(failure.initial_metadata)
    await context.abort(failure.code, failure.details, failure.trailing_metadata)
