"""CRI calls as the kubelet makes them, for records."""

import time
from typing import Any

from google.protobuf.message import Message

from dump.doubles import IMAGES, RUNTIME
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.record import Kind, Record

POD = cri.PodSandboxMetadata(name="web", namespace="default", uid="4b6a")
LABELS = {
    "io.kubernetes.pod.name": "web",
    "io.kubernetes.pod.namespace": "default",
    "io.kubernetes.pod.uid": "4b6a",
    "io.kubernetes.container.name": "app",
}


def call(method: str, request: Message, reply: Message | None = None, **more: Any) -> Record:
    """A record of a unary call; without a reply, of one that failed."""
    service = IMAGES if method.endswith(("Image", "Images")) or method == "ImageStatus" else RUNTIME
    facts: dict[str, Any] = {
        "kind": Kind.CALL,
        "call_id": "a1b2c3-1",
        "path": f"{service}{method}",
        "time_ns": time.time_ns(),
        "latency_ns": 1_234_567,
        "owner": "default",
        "code": "NOT_FOUND" if reply is None else "OK",
        "request": request.SerializeToString(),
        "request_size": request.ByteSize(),
        "reply": None if reply is None else reply.SerializeToString(),
        "reply_size": 0 if reply is None else reply.ByteSize(),
    }
    return Record(**facts | more)


def run_pod_sandbox(sandbox_id: str = "5a5a", metadata: cri.PodSandboxMetadata = POD) -> Record:
    return call(
        "RunPodSandbox",
        cri.RunPodSandboxRequest(config=cri.PodSandboxConfig(metadata=metadata)),
        cri.RunPodSandboxResponse(pod_sandbox_id=sandbox_id),
    )


def create_container(container_id: str = "c0c0", sandbox_id: str = "5a5a", name: str = "app") -> Record:
    return call(
        "CreateContainer",
        cri.CreateContainerRequest(
            pod_sandbox_id=sandbox_id,
            config=cri.ContainerConfig(metadata=cri.ContainerMetadata(name=name)),
            sandbox_config=cri.PodSandboxConfig(metadata=POD),
        ),
        cri.CreateContainerResponse(container_id=container_id),
    )
