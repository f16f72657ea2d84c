"""Spans, as a collector gets them."""

from collections.abc import AsyncIterator

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from multicri_proxy.calls import Call, CallFailed, Metadata, Reply, Stream
from multicri_proxy.tracing import Traced

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Asked:
    """A runtime that remembers the metadata that it was asked with."""

    def __init__(self) -> None:
        self.metadata: Metadata = ()

    async def call(self, call: Call) -> Reply:
        self.metadata = call.metadata
        if call.path.endswith("Version"):
            return Reply(message=b"", owner="default")
        raise CallFailed(grpc.StatusCode.NOT_FOUND, "", owner="kata")

    async def stream(self, call: Call) -> Stream:
        raise NotImplementedError

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        raise NotImplementedError


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exported: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return provider


def only(exported: InMemorySpanExporter) -> ReadableSpan:
    [span] = exported.get_finished_spans()
    return span


async def test_a_call_is_a_child_of_the_callers_span_and_the_runtime_sees_ours(
    exported: InMemorySpanExporter, provider: TracerProvider
) -> None:
    runtime = Asked()
    metadata = (("x-other", "kept"), ("traceparent", PARENT), ("some-bin", b"\x00"))
    await Traced(runtime, provider).call(
        Call(path="/runtime.v1.RuntimeService/Version", request=b"", metadata=metadata)
    )
    span = only(exported)
    assert span.name == "runtime.v1.RuntimeService/Version"
    assert span.attributes is not None
    assert span.attributes["multicri.owner"] == "default"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert span.context is not None
    assert dict(runtime.metadata) == {
        "x-other": "kept",
        "some-bin": b"\x00",
        "traceparent": f"00-0af7651916cd43dd8448eb211c80319c-{span.context.span_id:016x}-01",
    }


async def test_a_call_that_failed_says_so(exported: InMemorySpanExporter, provider: TracerProvider) -> None:
    with pytest.raises(CallFailed):
        await Traced(Asked(), provider).call(Call(path="/runtime.v1.RuntimeService/StopContainer", request=b""))
    span = only(exported)
    assert span.attributes is not None
    assert (span.status.description, span.attributes["rpc.grpc.status_code"]) == ("NOT_FOUND", 5)
