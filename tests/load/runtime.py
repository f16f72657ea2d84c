"""A runtime of 500 pods in a process of its own: ``python -m load.runtime SOCKET``. It has no containers, only answers.

Besides CRI it takes

- metadata ``x-hold: N``: the answer comes when N such calls are under way at once (0: never);
- metadata ``x-flood: BYTES``: a stream's messages come without a pause, until they are so many bytes;
- ``/load.Runtime/Counters``: what it sees, as JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field

import grpc
import grpc.aio

from multicri_proxy.cri.v1 import runtime_pb2 as cri

PODS = 500
EVENT_INTERVAL_S = 0.05
FLOOD_PIECE_BYTES = 64 * 1024
COUNTERS = "/load.Runtime/Counters"

_PREFIX = "/runtime.v1."
_CREATED_AT_NS = 1_700_000_000_000_000_000


@dataclass
class Counters:
    """calls: begun so far. in_flight: of them, not ended. flooded_bytes: taken from us by floods."""

    calls: int = 0
    in_flight: int = 0
    flooded_bytes: int = 0


@dataclass
class _Holding:
    held: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, number: int) -> None:
        async with self.changed:
            self.held += 1
            self.changed.notify_all()
            try:
                await self.changed.wait_for(lambda: 0 < number <= self.held)
            except asyncio.CancelledError:
                self.held -= 1
                raise


def identity(kind: str, number: int) -> str:
    return hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


def _labels(number: int) -> dict[str, str]:
    return {
        "io.kubernetes.container.name": "main",
        "io.kubernetes.pod.name": f"pod-{number}",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.pod.uid": identity("uid", number)[:36],
    }


def answers() -> dict[str, bytes]:
    """Every unary method's answer."""
    numbers = range(PODS)
    sandboxes = [
        cri.PodSandbox(
            id=identity("sandbox", number),
            metadata=cri.PodSandboxMetadata(
                name=f"pod-{number}", uid=identity("uid", number)[:36], namespace="default"
            ),
            state=cri.SANDBOX_READY,
            created_at=_CREATED_AT_NS,
            labels=_labels(number),
        )
        for number in numbers
    ]
    containers = [
        cri.Container(
            id=identity("container", number),
            pod_sandbox_id=identity("sandbox", number),
            metadata=cri.ContainerMetadata(name="main"),
            image=cri.ImageSpec(image="registry.example.org/team/application:1.0"),
            state=cri.CONTAINER_RUNNING,
            created_at=_CREATED_AT_NS,
            labels=_labels(number),
            annotations={f"annotation-{n}": "x" * 40 for n in range(5)},
        )
        for number in numbers
    ]
    stats = [
        cri.ContainerStats(
            attributes=cri.ContainerAttributes(id=one.id, metadata=one.metadata, labels=one.labels),
            cpu=cri.CpuUsage(timestamp=_CREATED_AT_NS, usage_core_nano_seconds=cri.UInt64Value(value=10**12)),
            memory=cri.MemoryUsage(timestamp=_CREATED_AT_NS, working_set_bytes=cri.UInt64Value(value=10**9)),
        )
        for one in containers
    ]
    status = cri.ContainerStatus(
        id=containers[0].id, metadata=containers[0].metadata, state=cri.CONTAINER_RUNNING, labels=_labels(0)
    )
    messages = {
        "RuntimeService/Version": cri.VersionResponse(
            version="0.1.0", runtime_name="containerd", runtime_version="v1.7.0", runtime_api_version="v1"
        ),
        "RuntimeService/Status": cri.StatusResponse(
            status=cri.RuntimeStatus(conditions=[cri.RuntimeCondition(type="RuntimeReady", status=True)])
        ),
        "RuntimeService/ListPodSandbox": cri.ListPodSandboxResponse(items=sandboxes),
        "RuntimeService/ListContainers": cri.ListContainersResponse(containers=containers),
        "RuntimeService/ListContainerStats": cri.ListContainerStatsResponse(stats=stats),
        "RuntimeService/PodSandboxStatus": cri.PodSandboxStatusResponse(
            status=cri.PodSandboxStatus(id=sandboxes[0].id, metadata=sandboxes[0].metadata, labels=_labels(0))
        ),
        "RuntimeService/ContainerStatus": cri.ContainerStatusResponse(status=status),
        "RuntimeService/ExecSync": cri.ExecSyncResponse(stdout=b"ok\n"),
        "ImageService/ImageFsInfo": cri.ImageFsInfoResponse(image_filesystems=[cri.FilesystemUsage()]),
        "ImageService/ListImages": cri.ListImagesResponse(
            images=[cri.Image(id=f"sha256:{identity('image', n)}", repo_tags=[f"image-{n}:1"]) for n in range(50)]
        ),
    }
    return {_PREFIX + name: message.SerializeToString() for name, message in messages.items()}


class Handlers(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self._answers = answers()
        self._counters = Counters()
        self._holding = _Holding()
        self._event = cri.ContainerEventResponse(
            container_id=identity("container", 0),
            container_event_type=cri.CONTAINER_STARTED_EVENT,
            created_at=_CREATED_AT_NS,
        ).SerializeToString()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        path = handler_call_details.method

        async def behave(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            self._counters.calls += 1
            self._counters.in_flight += 1
            try:
                await self._behave(path, requests, context)
            finally:
                self._counters.in_flight -= 1

        return grpc.stream_stream_rpc_method_handler(behave)

    async def _behave(
        self, path: str, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        wishes = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        async for _ in requests:
            break
        if path == COUNTERS:
            await context.write(json.dumps(asdict(self._counters)).encode())
            return
        if "x-hold" in wishes:
            await self._holding.until(int(wishes["x-hold"]))
        if "x-flood" in wishes:
            left = int(wishes["x-flood"])
            while left > 0:
                await context.write(bytes(min(left, FLOOD_PIECE_BYTES)))
                self._counters.flooded_bytes += min(left, FLOOD_PIECE_BYTES)
                left -= FLOOD_PIECE_BYTES
        elif path.endswith("/GetContainerEvents"):
            while True:
                await context.write(self._event)
                await asyncio.sleep(EVENT_INTERVAL_S)
        elif path in self._answers:
            await context.write(self._answers[path])
        else:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {path}")


async def serve(socket_path: str) -> None:
    server = grpc.aio.server(options=(("grpc.max_concurrent_streams", 1 << 20),))
    server.add_generic_rpc_handlers((Handlers(),))
    server.add_insecure_port(f"unix:{socket_path}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
