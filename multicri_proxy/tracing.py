"""OpenTelemetry spans around a `Runtime`: one for each call, a child of the caller's, a parent of the runtime's own.

Imported only if an admin asked for tracing; otherwise a caller's ``traceparent`` passes as all metadata does.
"""

from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from multicri_proxy import __version__
from multicri_proxy.calls import Call, CallFailed, Reply, Runtime, Stream, StreamAround

_CONTEXT = TraceContextTextMapPropagator()


@contextmanager
def exporting(endpoint: str) -> Iterator[TracerProvider]:
    """Send spans to an OTLP collector, ``http://127.0.0.1:4318/v1/traces``, from a thread of their own."""
    provider = TracerProvider(resource=Resource.create({"service.name": "multicri-proxy"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
    try:
        yield provider
    finally:
        provider.shutdown()


class Traced:
    """A `Runtime` with a span around each call. A stream's span ends with the stream."""

    def __init__(self, runtime: Runtime, provider: trace.TracerProvider) -> None:
        self._runtime = runtime
        self._tracer = provider.get_tracer("multicri_proxy", __version__)

    async def call(self, call: Call) -> Reply:
        span, call = self._begun(call)
        with _ending(span):
            reply = await self._runtime.call(call)
            span.set_attribute("multicri.owner", reply.owner)
            return reply

    async def stream(self, call: Call) -> Stream:
        span, call = self._begun(call)
        return await _traced(self._runtime.stream(call), span)

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        span, call = self._begun(call)
        return await _traced(self._runtime.relay(call, requests), span)

    def _begun(self, call: Call) -> tuple[Span, Call]:
        """A span of the caller's trace, and the call as its child would have it."""
        carrier = {key: value for key, value in call.metadata if isinstance(value, str)}
        service, _, method = call.path[1:].partition("/")
        span = self._tracer.start_span(
            f"{service}/{method}",
            context=_CONTEXT.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        ours: dict[str, str] = {}
        _CONTEXT.inject(ours, trace.set_span_in_context(span))
        kept = tuple(item for item in call.metadata if item[0] not in ours)
        return span, replace(call, metadata=(*kept, *ours.items()))


async def _traced(beginning: Awaitable[Stream], span: Span) -> Stream:
    try:
        return _TracedStream(await beginning, span)
    except BaseException:
        with _ending(span):
            raise


@contextmanager
def _ending(span: Span) -> Iterator[None]:
    try:
        yield
    except CallFailed as failure:
        span.set_attribute("multicri.owner", failure.owner)
        span.set_attribute("rpc.grpc.status_code", failure.code.value[0])
        span.set_status(StatusCode.ERROR, failure.code.name)
        raise
    finally:
        span.end()


class _TracedStream(StreamAround):
    def __init__(self, stream: Stream, span: Span) -> None:
        super().__init__(stream)
        self._span = span

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _ending(self._span):
            self._span.set_attribute("multicri.owner", self.owner)
            async for message in self.stream:
                yield message
