"""What the backend answers and the clients ask: CRI messages as large as a node's real ones."""

import hashlib
from collections.abc import Iterator

from multicri_proxy.cri.v1 import runtime_pb2 as cri

LISTED_CONTAINERS = 1000

Messages = Iterator[tuple[str, bytes]]
"""Methods of the RuntimeService, and their messages."""

_CREATED_AT_NS = 1_700_000_000_000_000_000
_RUNNING = cri.ContainerState.CONTAINER_RUNNING


def answers() -> Messages:
    """Each method's answer. The event is without created_at, which the backend adds."""
    yield (
        "Version",
        cri.VersionResponse(
            version="0.1.0", runtime_name="containerd", runtime_version="v2.0.0", runtime_api_version="v1"
        ).SerializeToString(),
    )
    yield "ContainerStatus", cri.ContainerStatusResponse(status=_status(0)).SerializeToString()
    yield (
        "ListContainers",
        cri.ListContainersResponse(
            containers=[_container(number) for number in range(LISTED_CONTAINERS)]
        ).SerializeToString(),
    )
    yield (
        "GetContainerEvents",
        cri.ContainerEventResponse(
            container_id=_id("container", 0),
            container_event_type=cri.ContainerEventType.CONTAINER_STARTED_EVENT,
            pod_sandbox_status=_sandbox_status(0),
            containers_statuses=[_status(0)],
        ).SerializeToString(),
    )


def requests() -> Messages:
    yield "ContainerStatus", cri.ContainerStatusRequest(container_id=_id("container", 0)).SerializeToString()
    yield "ListContainers", cri.ListContainersRequest(filter=cri.ContainerFilter()).SerializeToString()
    yield "GetContainerEvents", cri.GetEventsRequest().SerializeToString()


def _id(kind: str, number: int) -> str:
    return hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


def _container(number: int) -> cri.Container:
    return cri.Container(
        id=_id("container", number),
        pod_sandbox_id=_id("sandbox", number),
        metadata=cri.ContainerMetadata(name="main"),
        image=cri.ImageSpec(image=f"sha256:{_id('image', 0)}"),
        image_ref=f"sha256:{_id('image', 0)}",
        state=_RUNNING,
        created_at=_CREATED_AT_NS,
        labels=_labels(number),
        annotations=_annotations(number),
    )


def _status(number: int) -> cri.ContainerStatus:
    return cri.ContainerStatus(
        id=_id("container", number),
        metadata=cri.ContainerMetadata(name="main"),
        state=_RUNNING,
        created_at=_CREATED_AT_NS,
        started_at=_CREATED_AT_NS,
        image=cri.ImageSpec(image="registry.example.org/team/application:1.0"),
        image_ref=f"sha256:{_id('image', 0)}",
        labels=_labels(number),
        annotations=_annotations(number),
        log_path=f"/var/log/pods/default_pod-{number}_{_id('uid', number)[:36]}/main/0.log",
    )


def _sandbox_status(number: int) -> cri.PodSandboxStatus:
    return cri.PodSandboxStatus(
        id=_id("sandbox", number),
        metadata=cri.PodSandboxMetadata(name=f"pod-{number}", uid=_id("uid", number)[:36], namespace="default"),
        state=cri.PodSandboxState.SANDBOX_READY,
        created_at=_CREATED_AT_NS,
        network=cri.PodSandboxNetworkStatus(ip="192.0.2.7"),
        labels=_labels(number),
    )


def _labels(number: int) -> dict[str, str]:
    return {
        "io.kubernetes.container.name": "main",
        "io.kubernetes.pod.name": f"pod-{number}",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.pod.uid": _id("uid", number)[:36],
    }


def _annotations(number: int) -> dict[str, str]:
    return {
        "io.kubernetes.container.hash": _id("hash", number)[:8],
        "io.kubernetes.container.restartCount": "0",
        "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
        "io.kubernetes.container.terminationMessagePolicy": "File",
        "io.kubernetes.pod.terminationGracePeriod": "30",
    }
