"""Metrics, as Prometheus gets them."""

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from multicri_proxy.api.counts import ImageCounts
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.calls import Call, CallFailed, Reply, Stream
from multicri_proxy.metrics import ImageCollector, Metered, NodeCollector, on_loop, serving


class Answers:
    """A runtime that answers Version, and fails everything else."""

    async def call(self, call: Call) -> Reply:
        if call.path.endswith("/Version"):
            return Reply(message=b"", owner="default")
        raise CallFailed(grpc.StatusCode.NOT_FOUND, "", owner="kata")

    async def stream(self, call: Call) -> Stream:
        raise NotImplementedError

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        raise NotImplementedError


async def test_calls_are_counted_by_method_owner_and_code() -> None:
    registry = CollectorRegistry()
    metered = Metered(Answers(), registry)
    await metered.call(Call(path="/runtime.v1.RuntimeService/Version", request=b""))
    with pytest.raises(CallFailed):
        await metered.call(Call(path="/runtime.v1.RuntimeService/StopContainer", request=b""))
    with pytest.raises(CallFailed):
        await metered.call(Call(path="/a.client/ChoseThisName", request=b""))

    def count(**labels: str) -> float | None:
        return registry.get_sample_value("multicri_calls_total", labels)

    assert count(method="Version", owner="default", code="OK") == 1
    assert count(method="StopContainer", owner="kata", code="NOT_FOUND") == 1
    assert count(method="other", owner="kata", code="NOT_FOUND") == 1
    latency = {"method": "Version", "owner": "default"}
    assert registry.get_sample_value("multicri_call_latency_seconds_count", latency) == 1


def test_what_the_node_has_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    endpoints = {"default": str(tmp_path / "up"), "kata": str(tmp_path / "down")}
    registry.register(
        NodeCollector(
            endpoints=endpoints, image_endpoints=endpoints, containers=lambda: {"running": 3}, dropped=lambda: 7
        )
    )
    with socket.socket(socket.AF_UNIX) as up:
        up.bind(endpoints["default"])
        up.listen()
        with serving("127.0.0.1:19109", registry):
            text = urllib.request.urlopen("http://127.0.0.1:19109/metrics", timeout=10).read().decode()
    assert 'multicri_endpoint_up{owner="default"} 1.0' in text
    assert 'multicri_endpoint_up{owner="kata"} 0.0' in text
    assert 'multicri_containers{state="running"} 3.0' in text
    assert "multicri_dump_records_dropped_total 7.0" in text


def test_a_unix_socket_serves_them_to_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with serving(str(path), CollectorRegistry()), socket.socket(socket.AF_UNIX) as client:
        assert path.stat().st_mode & 0o777 == 0o600
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 200")
    assert not path.exists()


def test_a_port_that_is_taken_is_refused_by_name() -> None:
    with (
        serving("127.0.0.1:19110", CollectorRegistry()),
        pytest.raises(FailedPrecondition, match=r"127.0.0.1:19110"),
        serving("127.0.0.1:19110", CollectorRegistry()),
    ):
        pass


def test_of_images_it_is_told_what_was_pulled_built_sent_and_removed_for_want_of_room() -> None:
    registry, counts = CollectorRegistry(), ImageCounts()
    registry.register(ImageCollector(counts, images=lambda: 3, used_bytes=lambda: 4096))
    counts.pulls["docker", "ok"] += 2
    counts.uploads["failed"] += 1
    counts.evictions["cluster"] += 4
    for seconds in (0.5, 3.0, 7200.0):
        counts.built("apptainer", "ok", seconds)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert (value("multicri_images"), value("multicri_images_bytes")) == (3, 4096)
    assert value("multicri_image_pulls_total", source="docker", result="ok") == 2
    assert value("multicri_image_uploads_total", result="failed") == 1
    assert value("multicri_image_evictions_total", where="cluster") == 4
    builds, labels = "multicri_image_build_seconds", {"builder": "apptainer", "result": "ok"}
    assert value(f"{builds}_sum", **labels) == 7203.5
    assert value(f"{builds}_count", **labels) == 3
    below = {end: value(f"{builds}_bucket", le=end, **labels) for end in ("1", "3", "3600", "+Inf")}
    assert below == {"1": 1, "3": 2, "3600": 2, "+Inf": 3}


async def test_what_changes_on_the_event_loop_is_read_there() -> None:
    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(on_loop(asyncio.get_running_loop)) is loop
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(on_loop(lambda: 1 // 0))
