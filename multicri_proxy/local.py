"""A runtime in this process: decodes, calls, encodes. The one place where our errors become gRPC status codes."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from multicri_proxy.api import errors
from multicri_proxy.api.log import Log
from multicri_proxy.calls import Call, CallFailed, Metadata, Reply, Stream, Unreadable
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.methods import V1, V1ALPHA2

log = Log("local")

_CODES = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
}

_LONGEST_DETAILS = 4096
"""Characters of an error's text that go to the client: status details travel in a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handler:
    """One CRI method of the service object: `run` takes the decoded request."""

    request: type[Message]
    run: Callable[[Any], Any]


class LocalRuntime:
    """Serves an object whose methods are CRI's, in snake case, from request message to response message.

    A method that streams returns an async iterator of responses. One that the object lacks is UNIMPLEMENTED.
    A call ends with DEADLINE_EXCEEDED when its time is up, so that none outlives its caller.
    """

    def __init__(self, name: str, service: object) -> None:
        self.name = name
        self._handlers = {
            f"/{version}.{descriptor.name}/{method.name}": _Handler(request=GetMessageClass(method.input_type), run=run)
            for version in (V1, V1ALPHA2)
            for descriptor in cri.DESCRIPTOR.services_by_name.values()
            for method in descriptor.methods
            if (run := getattr(service, _snake_case(method.name), None)) is not None
        }

    async def call(self, call: Call) -> Reply:
        handler, request = self._decode(call)
        try:
            async with asyncio.timeout(call.timeout_s):
                response: Message = await handler.run(request)
        except Exception as error:
            raise _failure(self.name, call.path, error) from error
        return Reply(message=response.SerializeToString(), owner=self.name)

    async def stream(self, call: Call) -> Stream:
        handler, request = self._decode(call)
        return _LocalStream(self.name, call.path, handler.run(request))

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        raise _unimplemented(self.name, call.path)

    def _decode(self, call: Call) -> tuple[_Handler, Message]:
        handler = self._handlers.get(call.path)
        if handler is None:
            raise _unimplemented(self.name, call.path)
        request = handler.request()
        try:
            request.ParseFromString(call.request)
        except DecodeError as error:
            details = f"cannot decode {call.path}: {error}"
            raise Unreadable(grpc.StatusCode.INVALID_ARGUMENT, details, owner=self.name) from error
        return handler, request


class _LocalStream:
    def __init__(self, owner: str, path: str, responses: AsyncIterator[Message]) -> None:
        self.owner = owner
        self._path = path
        self._responses = responses

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for response in self._responses:
                yield response.SerializeToString()
        except Exception as error:
            raise _failure(self.owner, self._path, error) from error

    async def initial_metadata(self) -> Metadata:
        return ()

    async def trailing_metadata(self) -> Metadata:
        return ()

    def cancel(self) -> None:
        """Whoever reads the stream is cancelled, and the iterator with it."""


def _failure(owner: str, path: str, error: Exception) -> CallFailed:
    if isinstance(error, TimeoutError):
        details = str(error) or f"{path} took longer than its caller waits"
        return CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, details, owner=owner)
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
    if code is None:
        log.defect("a call failed in a way that it should not", error, path=path)
        details = f"multicri-proxy has a defect: {type(error).__name__}; see its log"
        return CallFailed(grpc.StatusCode.INTERNAL, details, owner=owner)
    return CallFailed(code, str(error)[:_LONGEST_DETAILS], owner=owner)


def _unimplemented(owner: str, path: str) -> CallFailed:
    details = f"{path} is not there for pods that multicri-proxy runs itself"
    return CallFailed(grpc.StatusCode.UNIMPLEMENTED, details, owner=owner)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
