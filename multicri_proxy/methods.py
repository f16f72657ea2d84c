"""THE table: each CRI method, whose answer it wants, and how several answers become one.

A method that is not here passes to the default runtime as a stream of raw messages in both directions.
Source: CRI v1 as of Kubernetes 1.36, see ``protos/cri``.
"""

from dataclasses import dataclass
from enum import Enum, auto

Path = tuple[int, ...]
"""Field numbers from the request down to a string, for `multicri_proxy.wire.text_at`."""


class Whose(Enum):
    """Who answers a call."""

    DEFAULT = auto()
    """The default runtime; an adapter only where there is none."""

    HANDLER = auto()
    """The runtime that the handler named in the request stands for."""

    SANDBOX = auto()
    """The owner of the sandbox named in the request."""

    CONTAINER = auto()
    """The owner of the container named in the request."""

    IMAGE = auto()
    """The owner of the image named in the request."""

    EVERY = auto()
    """Every runtime; if the request's filter names one object, then that object's owner alone."""


class Merge(Enum):
    """How the answers of several runtimes become one.

    Metadata is never merged: the default runtime's stands for all, initial and trailing, as if it had answered alone;
    where there is none, the first endpoint's. Two runtimes' would repeat keys that a client expects once.
    """

    NONE = auto()
    """One runtime answers."""

    CONCATENATE = auto()
    """Unary: one answer after the other, which merges repeated fields. Streams: likewise, until all have ended."""

    FIRST = auto()
    """Everyone is told, the default runtime's answer counts."""

    HANDLERS = auto()
    """The default runtime's answer, with the other runtimes' handlers added."""

    UNTIL_ANY_ENDS = auto()
    """Streams: messages as they come, until one of the runtimes ends its own. Of the default runtime's initial metadata
    what has come by the first message of any: a runtime without an event must not hold up another one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One row.

    key: where the handler, id or image name is. handler: where an image call may name its runtime handler.
    container, sandbox, image: where a list's filter may name one object.
    """

    name: str
    whose: Whose
    streaming: bool = False
    merge: Merge = Merge.NONE
    key: Path = ()
    handler: Path = ()
    container: Path = ()
    sandbox: Path = ()
    image: Path = ()


def _sandbox(name: str) -> Method:
    return Method(name=name, whose=Whose.SANDBOX, key=(1,))


def _container(name: str) -> Method:
    return Method(name=name, whose=Whose.CONTAINER, key=(1,))


def _image(name: str) -> Method:
    return Method(name=name, whose=Whose.IMAGE, key=(1, 1), handler=(1, 19))


def _list(
    unary: str, stream: str, *, container: Path = (), sandbox: Path = (), image: Path = ()
) -> tuple[Method, Method]:
    """A list and its streaming twin, which take the same filter in field 1."""
    handler = (1, 1, 19) if image else ()

    def method(name: str, *, streaming: bool) -> Method:
        return Method(
            name=name,
            whose=Whose.EVERY,
            streaming=streaming,
            merge=Merge.CONCATENATE,
            handler=handler,
            container=container,
            sandbox=sandbox,
            image=image,
        )

    return method(unary, streaming=False), method(stream, streaming=True)


RUNTIME_SERVICE = (
    Method(name="Version", whose=Whose.DEFAULT),
    Method(name="Status", whose=Whose.DEFAULT, merge=Merge.HANDLERS),
    Method(name="RuntimeConfig", whose=Whose.DEFAULT),
    Method(name="UpdateRuntimeConfig", whose=Whose.EVERY, merge=Merge.FIRST),
    Method(name="RunPodSandbox", whose=Whose.HANDLER, key=(2,)),
    _sandbox("StopPodSandbox"),
    _sandbox("RemovePodSandbox"),
    _sandbox("PodSandboxStatus"),
    _sandbox("PodSandboxStats"),
    _sandbox("UpdatePodSandboxResources"),
    _sandbox("PortForward"),
    _sandbox("CreateContainer"),
    _container("StartContainer"),
    _container("StopContainer"),
    _container("RemoveContainer"),
    _container("ContainerStatus"),
    _container("ContainerStats"),
    _container("UpdateContainerResources"),
    _container("ReopenContainerLog"),
    _container("ExecSync"),
    _container("Exec"),
    _container("Attach"),
    _container("CheckpointContainer"),
    *_list("ListPodSandbox", "StreamPodSandboxes", sandbox=(1, 1)),
    *_list("ListContainers", "StreamContainers", container=(1, 1), sandbox=(1, 3)),
    *_list("ListContainerStats", "StreamContainerStats", container=(1, 1), sandbox=(1, 2)),
    *_list("ListPodSandboxStats", "StreamPodSandboxStats", sandbox=(1, 1)),
    *_list("ListPodSandboxMetrics", "StreamPodSandboxMetrics"),
    Method(name="ListMetricDescriptors", whose=Whose.EVERY, merge=Merge.CONCATENATE),
    Method(name="GetContainerEvents", whose=Whose.EVERY, streaming=True, merge=Merge.UNTIL_ANY_ENDS),
)

IMAGE_SERVICE = (
    _image("PullImage"),
    _image("ImageStatus"),
    _image("RemoveImage"),
    *_list("ListImages", "StreamImages", image=(1, 1, 1)),
    Method(name="ImageFsInfo", whose=Whose.DEFAULT),
)

V1, V1ALPHA2 = "runtime.v1", "runtime.v1alpha2"
"""The two versions of CRI, by their protobuf packages. Their messages are the same on the wire: what is a string in
the one and bytes in the other (KeyValue.value) is written alike."""

METHODS = {
    f"/{version}.{service}/{method.name}": method
    for version in (V1, V1ALPHA2)
    for service, methods in (("RuntimeService", RUNTIME_SERVICE), ("ImageService", IMAGE_SERVICE))
    for method in methods
}
"""Every method of CRI by its path on the wire, in both versions."""


def is_of_images(path: str) -> bool:
    """Whether a method is the ImageService's, in any version of CRI and known or not."""
    return path.rpartition("/")[0].endswith(".ImageService")


def version_of(path: str) -> str:
    """The protobuf package of a method in the table."""
    return path[1:].partition("Service/")[0].rpartition(".")[0]


def in_version(path: str, version: str) -> str:
    """The path of the same method in the other version of CRI."""
    return f"/{version}{path.removeprefix(f'/{version_of(path)}')}"
