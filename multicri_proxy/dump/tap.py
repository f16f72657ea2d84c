"""Where the dumper listens: between the server and the runtimes."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextvars import ContextVar
from typing import Any

import grpc

from multicri_proxy.api.log import Log
from multicri_proxy.calls import Call, CallFailed, Metadata, Reply, Runtime, Stream, StreamAround
from multicri_proxy.dump.dumper import Dumper
from multicri_proxy.dump.record import Kind, Record
from multicri_proxy.methods import METHODS, Merge

log = Log("dump")

_WAITING_S = 1.0
"""A call that has no answer by then is told of."""

_ENDLESS = frozenset(path for path, method in METHODS.items() if method.merge is Merge.UNTIL_ANY_ENDS)
"""Streams that are open for days: whoever attaches later wants to see them too."""

_trace: ContextVar["_Trace | None"] = ContextVar("multicri_dump", default=None)


def note_changed_request(request: bytes) -> None:
    """For policies: the call that is being served goes on with this request. Costs nothing when nobody listens."""
    if (trace := _trace.get()) is not None:
        trace.changed_request = request


class Tap:
    """A `Runtime` that records what passes, and passes it on as it is."""

    def __init__(self, runtime: Runtime, dumper: Dumper) -> None:
        self._runtime = runtime
        self._dumper = dumper

    def call(self, call: Call) -> Coroutine[Any, Any, Reply]:
        return self._call(call) if self._dumper.listeners else self._runtime.call(call)

    def stream(self, call: Call) -> Coroutine[Any, Any, Stream]:
        if self._dumper.listeners or call.path in _ENDLESS:
            return self._stream(call)
        return self._runtime.stream(call)

    def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Coroutine[Any, Any, Stream]:
        if self._dumper.listeners and self._dumper.wants(call.path):
            return self._relay(call, requests)
        return self._runtime.relay(call, requests)

    async def _call(self, call: Call) -> Reply:
        if not self._dumper.wants(call.path):
            return await self._runtime.call(call)
        trace = _Trace(self._dumper, call)
        token = _trace.set(trace)
        waiting = asyncio.get_running_loop().call_later(_WAITING_S, trace.record, Kind.WAITING)
        try:
            reply = await self._runtime.call(call)
        except BaseException as error:
            trace.failed(Kind.CALL, error)
            raise
        finally:
            waiting.cancel()
            _trace.reset(token)
        trace.ended(Kind.CALL, reply.owner, reply.message, reply.trailing_metadata)
        return reply

    async def _stream(self, call: Call) -> Stream:
        trace = _Trace(self._dumper, call)
        trace.record(Kind.REQUEST)
        token = _trace.set(trace)
        try:
            return _TappedStream(await self._runtime.stream(call), trace)
        except BaseException as error:
            trace.failed(Kind.END, error)
            raise
        finally:
            _trace.reset(token)

    async def _relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        trace = _Trace(self._dumper, call)
        try:
            return _TappedStream(await self._runtime.relay(call, trace.requests(requests)), trace)
        except BaseException as error:
            trace.failed(Kind.END, error)
            raise


class _Trace:
    """One call while it lasts."""

    def __init__(self, dumper: Dumper, call: Call) -> None:
        self.changed_request: bytes | None = None
        self.dumper = dumper
        self._call = call
        self._call_id = dumper.new_call_id()
        self._began_ns = time.time_ns()
        self._began_at_ns = time.monotonic_ns()

    def record(
        self,
        kind: Kind,
        *,
        owner: str = "",
        code: str = "",
        details: str = "",
        request: bytes | None = None,
        reply: bytes | None = None,
        trailing_metadata: Metadata = (),
    ) -> None:
        """Never raises. request: None stands for the call's own, where the kind has one."""
        try:
            self._record(
                kind,
                owner=owner,
                code=code,
                details=details,
                request=request,
                reply=reply,
                trailing_metadata=trailing_metadata,
            )
        except Exception as error:  # a call must not suffer
            log.defect("a dump record is lost", error)

    def _record(
        self,
        kind: Kind,
        *,
        owner: str,
        code: str,
        details: str,
        request: bytes | None,
        reply: bytes | None,
        trailing_metadata: Metadata,
    ) -> None:
        if not self.dumper.wants(self._call.path):
            return
        whole = self.dumper.wants_messages(self._call.path)
        latency_ns = time.monotonic_ns() - self._began_at_ns
        of_call = kind in {Kind.CALL, Kind.WAITING}
        if request is None and (of_call or kind is Kind.REQUEST):
            request = self._call.request
        self.dumper.take(
            Record(
                kind=kind,
                call_id=self._call_id,
                path=self._call.path,
                time_ns=self._began_ns if of_call else self._began_ns + latency_ns,
                latency_ns=latency_ns,
                timeout_s=self._call.timeout_s,
                owner=owner,
                code=code,
                details=details,
                request=request if whole else None,
                changed_request=self.changed_request if whole and (of_call or kind is Kind.END) else None,
                reply=reply if whole else None,
                request_size=len(request or b""),
                reply_size=len(reply or b""),
                metadata=self._call.metadata if of_call or kind is Kind.REQUEST else (),
                trailing_metadata=trailing_metadata,
            )
        )

    def ended(self, kind: Kind, owner: str, reply: bytes | None, trailing_metadata: Metadata) -> None:
        self.record(kind, owner=owner, code="OK", reply=reply, trailing_metadata=trailing_metadata)

    def failed(self, kind: Kind, error: BaseException, owner: str = "") -> None:
        if isinstance(error, CallFailed):
            self.record(
                kind,
                owner=error.owner or owner,
                code=error.code.name,
                details=error.details,
                trailing_metadata=error.trailing_metadata,
            )
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.given_up(kind, owner)
        else:
            self.record(kind, owner=owner, code=grpc.StatusCode.UNKNOWN.name, details=type(error).__name__)

    def given_up(self, kind: Kind, owner: str) -> None:
        """gRPC cancels a call for both reasons; the clock tells them apart."""
        timeout_s = self._call.timeout_s
        late = timeout_s is not None and (time.monotonic_ns() - self._began_at_ns) / 1e9 >= timeout_s
        code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        self.record(kind, owner=owner, code=code.name, details="the caller waits no longer")

    async def requests(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The client's messages of a relayed call."""
        async for message in messages:
            self.record(Kind.REQUEST, request=message)
            yield message


class _TappedStream(StreamAround):
    def __init__(self, stream: Stream, trace: _Trace) -> None:
        super().__init__(stream)
        self._trace = trace
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        dumper = self._trace.dumper
        try:
            async for message in self.stream:
                if dumper.listeners:
                    self._trace.record(Kind.REPLY, owner=self.owner, reply=message)
                yield message
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    def cancel(self) -> None:
        super().cancel()
        self._end(asyncio.CancelledError())

    def _end(self, error: BaseException | None) -> None:
        if self._ended:
            return
        self._ended = True
        if error is None:
            self._trace.ended(Kind.END, self.owner, None, ())
        else:
            self._trace.failed(Kind.END, error, self.owner)
