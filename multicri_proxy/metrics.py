"""What the proxy does, in numbers: counted around a `Runtime`, served to Prometheus by a thread of its own.

Imported only if an admin asked for metrics: without them no call passes here.
"""

import asyncio
import os
import socket
import socketserver
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from multicri_proxy.api.counts import BUCKETS_S as BUILD_BUCKETS_S
from multicri_proxy.api.counts import Durations, ImageCounts
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.calls import Call, CallFailed, Reply, Runtime, Stream, StreamAround
from multicri_proxy.methods import METHODS

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

_LOOP_S = 5.0
_T = TypeVar("_T")

_UNKNOWN = "other"
"""Label of methods that the table does not have: a client chooses their names, and must not fill our memory."""


class Metered:
    """A `Runtime` whose calls are counted."""

    def __init__(self, runtime: Runtime, registry: CollectorRegistry) -> None:
        self._runtime = runtime
        self._calls = Counter(
            "multicri_calls", "CRI calls that have ended", ("method", "owner", "code"), registry=registry
        )
        self._latency = Histogram(
            "multicri_call_latency_seconds",
            "from a CRI call's arrival to its answer's end",
            ("method", "owner"),
            buckets=_BUCKETS_S,
            registry=registry,
        )

    async def call(self, call: Call) -> Reply:
        with self._counting(call.path) as counted:
            reply = await self._runtime.call(call)
            counted.owner = reply.owner
            return reply

    async def stream(self, call: Call) -> Stream:
        return await self._begun(call, self._runtime.stream(call))

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        return await self._begun(call, self._runtime.relay(call, requests))

    async def _begun(self, call: Call, beginning: Awaitable[Stream]) -> Stream:
        try:
            stream = await beginning
        except CallFailed:
            with self._counting(call.path):
                raise
        return _MeteredStream(stream, lambda: self._counting(call.path))

    @contextmanager
    def _counting(self, path: str) -> "Iterator[_Counted]":
        method = METHODS[path].name if path in METHODS else _UNKNOWN
        counted, began = _Counted(), time.monotonic()
        try:
            yield counted
        except CallFailed as failure:
            counted.owner, counted.code = failure.owner, failure.code.name
            raise
        except (asyncio.CancelledError, GeneratorExit):
            counted.code = "CANCELLED"
            raise
        finally:
            self._calls.labels(method, counted.owner, counted.code).inc()
            self._latency.labels(method, counted.owner).observe(time.monotonic() - began)


class _Counted:
    """Labels of a call under way."""

    def __init__(self) -> None:
        self.owner = ""
        self.code = "OK"


class _MeteredStream(StreamAround):
    def __init__(self, stream: Stream, counting: Callable[[], Any]) -> None:
        super().__init__(stream)
        self._counting = counting

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._counting() as counted:
            counted.owner = self.owner
            async for message in self.stream:
                yield message


def on_loop(read: Callable[[], _T]) -> Callable[[], _T]:
    """The same for other threads, done on the event loop that runs now: nothing changes there meanwhile.

    It raises TimeoutError if the loop does not get to it.
    """
    loop = asyncio.get_running_loop()

    async def reading() -> _T:
        return read()

    def ask() -> _T:
        return asyncio.run_coroutine_threadsafe(reading(), loop).result(_LOOP_S)

    return ask


class NodeCollector(Collector):
    """What is read at the moment when Prometheus asks.

    endpoints: sockets of the runtimes, by name. image_endpoints: likewise of image services apart from them.
    containers: how many the adapter has, by state. dropped: dump records that were dropped so far.
    """

    def __init__(
        self,
        *,
        endpoints: Mapping[str, str],
        image_endpoints: Mapping[str, str],
        containers: Callable[[], Mapping[str, int]],
        dropped: Callable[[], int],
    ) -> None:
        self._endpoints = endpoints
        self._image_endpoints = image_endpoints
        self._containers = containers
        self._dropped = dropped

    def collect(self) -> Iterable[Metric]:
        yield _up("multicri_endpoint_up", "1 if the runtime's socket is listened on", self._endpoints)
        yield _up("multicri_image_endpoint_up", "1 if the image service's socket is listened on", self._image_endpoints)
        jobs = GaugeMetricFamily("multicri_containers", "containers that the adapter runs, by state", labels=["state"])
        for state, count in sorted(self._containers().items()):
            jobs.add_metric([state], count)
        yield jobs
        yield CounterMetricFamily("multicri_dump_records_dropped", "dump records dropped", value=self._dropped())


class ImageCollector(Collector):
    """Of images, likewise.

    counts: since the daemon's start. images: how many there are. used_bytes: the room that they take on this node.
    """

    def __init__(self, counts: ImageCounts, *, images: Callable[[], int], used_bytes: Callable[[], int]) -> None:
        self._counts = counts
        self._images = images
        self._used_bytes = used_bytes

    def collect(self) -> Iterable[Metric]:
        counts = self._counts
        yield GaugeMetricFamily("multicri_images", "images that were pulled and not removed", value=self._images())
        yield GaugeMetricFamily("multicri_images_bytes", "room that they take on this node", value=self._used_bytes())
        pulls = CounterMetricFamily("multicri_image_pulls", "pulls that have ended", labels=("source", "result"))
        for labels, count in sorted(counts.pulls.copy().items()):
            pulls.add_metric(labels, count)
        yield pulls
        builds = HistogramMetricFamily(
            "multicri_image_build_seconds", "how long builds of images took", labels=("builder", "result")
        )
        for labels, durations in sorted(counts.builds.copy().items()):
            builds.add_metric(labels, *_histogram(durations))
        yield builds
        uploads = CounterMetricFamily("multicri_image_uploads", "images sent to clusters", labels=("result",))
        for result, count in sorted(counts.uploads.copy().items()):
            uploads.add_metric((result,), count)
        yield uploads
        evictions = CounterMetricFamily(
            "multicri_image_evictions", "images removed for want of room, from the pool or a cluster", labels=("where",)
        )
        for where, count in sorted(counts.evictions.copy().items()):
            evictions.add_metric((where,), count)
        yield evictions


def _histogram(durations: Durations) -> tuple[list[tuple[str, float]], float]:
    """Prometheus wants each bucket to hold those below it, too."""
    ends = [*map(str, BUILD_BUCKETS_S), "+Inf"]
    return list(zip(ends, map(float, accumulate(durations.buckets)), strict=True)), durations.sum_s


def _up(name: str, text: str, sockets: Mapping[str, str]) -> Metric:
    up = GaugeMetricFamily(name, text, labels=["owner"])
    for owner, path in sockets.items():
        up.add_metric([owner], _listens(path))
    return up


@contextmanager
def serving(address: str, registry: CollectorRegistry) -> Iterator[None]:
    """Serve ``/metrics`` on ``host:port`` or on the unix socket whose absolute path is given, mode 0600.

    Raises FailedPrecondition if that cannot be listened on.
    """
    try:
        server = _listening(address)
    except OSError as error:
        raise FailedPrecondition(f"metrics: cannot listen on {address}: {error.strerror}") from error
    server.set_app(make_wsgi_app(registry))
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        if address.startswith("/"):
            Path(address).unlink(missing_ok=True)


def _listening(address: str) -> WSGIServer:
    if address.startswith("/"):
        return _UnixServer(cast(Any, address), _Quiet)
    return _TcpServer(_host_and_port(address), _Quiet)


class _TcpServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    timeout = 10


class _UnixServer(socketserver.ThreadingMixIn, WSGIServer):
    address_family = socket.AF_UNIX
    daemon_threads = True
    timeout = 10

    def server_bind(self) -> None:
        path = cast(str, self.server_address)
        if Path(path).is_socket() and not _listens(path):
            Path(path).unlink()
        umask = os.umask(0o177)
        try:
            socketserver.TCPServer.server_bind(self)
        finally:
            os.umask(umask)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = self.socket.accept()
        return connection, ("local", 0)  # what wsgiref wants to know of a client


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class names it so)
        """Scrapes are no news."""


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == 0
