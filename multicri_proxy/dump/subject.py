"""Whose call is this? Finds the pod and container that a call is about, and who wants to see it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.entry import Entry
from multicri_proxy.dump.record import Record

_Value = TypeVar("_Value")

_MOST_REMEMBERED = 20_000
_LONGEST_NAME = 63
"""Of a container: a DNS label."""
_POD_NAME, _POD_NAMESPACE, _POD_UID = (f"io.kubernetes.pod.{what}" for what in ("name", "namespace", "uid"))

LEARNT_FROM = frozenset(
    {
        "RunPodSandbox",
        "CreateContainer",
        "ListPodSandbox",
        "ListContainers",
        "StreamPodSandboxes",
        "StreamContainers",
        "PodSandboxStatus",
        "ContainerStatus",
    }
)
"""Methods whose messages tell names of ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod's names, what is unknown empty."""

    sandbox_id: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""

    def is_meant_by(self, text: str) -> bool:
        """text: sandbox id or the beginning of one, name, namespace/name, or uid."""
        if not text:
            return False
        full_name = f"{self.namespace}/{self.name}"
        return text in {self.name, full_name, self.uid} or _begins(self.sandbox_id, text)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.name else self.sandbox_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a call is about, as far as it is known. Empty: about no container, or no pod."""

    pod: Pod = Pod()
    container_id: str = ""
    container: str = ""


@dataclass(frozen=True, slots=True)
class _Container:
    name: str
    pod: Pod


class Names:
    """What ids are called: learnt from the messages that go by, the oldest forgotten first."""

    def __init__(self) -> None:
        self._pods: dict[str, Pod] = {}
        self._containers: dict[str, _Container] = {}
        self._last_lists: dict[str, int] = {}

    def learn(self, entry: Entry) -> None:
        """Take in what one record tells."""
        record = entry.record
        request: Any = entry.request
        reply: Any = entry.reply
        if reply is None or record.method not in LEARNT_FROM:
            return
        match record.method:
            case "RunPodSandbox" if request is not None:
                self._learn_pod(reply.pod_sandbox_id, request.config.metadata)
            case "CreateContainer" if request is not None:
                pod = self._pods.get(request.pod_sandbox_id) or _pod(
                    request.pod_sandbox_id, request.sandbox_config.metadata
                )
                self._learn_container(reply.container_id, request.config.metadata.name, pod)
            case "PodSandboxStatus":
                self._learn_pod(reply.status.id, reply.status.metadata)
            case "ContainerStatus":
                self._learn_listed(reply.status, "")
            case _:
                self._learn_list(record.method, reply, record.reply or b"")

    def pod(self, sandbox_id: str) -> Pod:
        return self._pods.get(sandbox_id) or Pod(sandbox_id=sandbox_id)

    def container(self, container_id: str) -> tuple[str, Pod]:
        """Its name and its pod."""
        known = self._containers.get(container_id)
        if known is None:
            return "", Pod()
        return known.name, self._pods.get(known.pod.sandbox_id, known.pod)

    def _learn_list(self, method: str, reply: Any, data: bytes) -> None:
        if self._last_lists.get(method) == hash(data):  # the kubelet asks each second
            return
        self._last_lists[method] = hash(data)
        for item in getattr(reply, reply.DESCRIPTOR.fields[0].name):
            if isinstance(item, cri.PodSandbox):
                self._learn_pod(item.id, item.metadata)
            else:
                self._learn_listed(item, item.pod_sandbox_id)

    def _learn_listed(self, container: Any, sandbox_id: str) -> None:
        labels = container.labels
        pod = Pod(
            sandbox_id=sandbox_id,
            name=labels.get(_POD_NAME, ""),
            namespace=labels.get(_POD_NAMESPACE, ""),
            uid=labels.get(_POD_UID, ""),
        )
        known = self._containers.get(container.id)
        if known and not sandbox_id:
            pod = known.pod
        self._learn_container(container.id, container.metadata.name or (known.name if known else ""), pod)

    def _learn_pod(self, sandbox_id: str, metadata: Any) -> None:
        if sandbox_id:
            _remember(self._pods, sandbox_id, _pod(sandbox_id, metadata))

    def _learn_container(self, container_id: str, name: str, pod: Pod) -> None:
        if container_id:
            _remember(self._containers, container_id, _Container(name, pod))


def _remember(known: dict[str, _Value], key: str, value: _Value) -> None:
    known.pop(key, None)
    known[key] = value
    if len(known) > _MOST_REMEMBERED:
        del known[next(iter(known))]


def subject_of(entry: Entry, names: Names) -> Subject:
    """What the messages name, completed with what is known of it; without messages, what was written down of it."""
    if entry.request is None and entry.reply is None:
        return _recorded(entry.record)
    sandbox_id = container_id = container = ""
    pod = Pod()
    for message in (entry.request, entry.reply):
        if message is None:
            continue
        sandbox_id = sandbox_id or _text(message, "pod_sandbox_id")
        container_id = container_id or _text(message, "container_id")
        config = _config(message)
        if config is not None and not pod.name:
            pod = _pod("", config.metadata)
        if isinstance(message, cri.CreateContainerRequest):
            container = message.config.metadata.name
        elif isinstance(message, cri.ContainerEventResponse):
            status = message.pod_sandbox_status
            pod, sandbox_id = _pod(status.id, status.metadata), status.id
            container_id = "" if container_id == status.id else container_id
        listed_sandbox, listed_container = _filtered(message)
        sandbox_id, container_id = sandbox_id or listed_sandbox, container_id or listed_container
    if container_id:
        known_container, known_pod = names.container(container_id)
        container = container or known_container
        if not sandbox_id and not pod.name:
            pod, sandbox_id = known_pod, known_pod.sandbox_id
    if sandbox_id and not pod.name:
        pod = names.pod(sandbox_id)
    if sandbox_id and not pod.sandbox_id:
        pod = replace(pod, sandbox_id=sandbox_id)
    return Subject(pod=pod, container_id=container_id, container=container)


def _recorded(record: Record) -> Subject:
    """A line of a file has names where they were known, else ids, which are longer than a name can be."""
    namespace, slash, name = record.pod.partition("/")
    return Subject(
        pod=Pod(namespace=namespace, name=name) if slash else Pod(sandbox_id=record.pod),
        container=record.container,
        container_id=record.container if len(record.container) > _LONGEST_NAME else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which pods and containers to show; empty: whatever comes. Both given: both must fit."""

    pods: Sequence[str] = ()
    containers: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.pods or self.containers)

    def fits(self, subject: Subject) -> bool:
        if self.pods and not any(subject.pod.is_meant_by(text) for text in self.pods):
            return False
        return not self.containers or any(
            text and (text == subject.container or _begins(subject.container_id, text)) for text in self.containers
        )


def _begins(object_id: str, text: str) -> bool:
    return bool(object_id) and object_id.startswith(text)


def _pod(sandbox_id: str, metadata: Any) -> Pod:
    return Pod(sandbox_id=sandbox_id, name=metadata.name, namespace=metadata.namespace, uid=metadata.uid)


def _config(message: Message) -> Any:
    """The sandbox's configuration in a request."""
    if isinstance(message, cri.RunPodSandboxRequest):
        return message.config
    if isinstance(message, cri.CreateContainerRequest | cri.PullImageRequest) and message.HasField("sandbox_config"):
        return message.sandbox_config
    return None


def _text(message: Message, name: str) -> str:
    field = message.DESCRIPTOR.fields_by_name.get(name)
    return getattr(message, name) if field is not None else ""


def _filtered(message: Any) -> tuple[str, str]:
    """The sandbox and container ids that a list asks for."""
    field = message.DESCRIPTOR.fields_by_name.get("filter")
    if field is None or field.message_type is None:
        return "", ""
    if field.message_type in {cri.PodSandboxFilter.DESCRIPTOR, cri.PodSandboxStatsFilter.DESCRIPTOR}:
        return message.filter.id, ""
    return _text(message.filter, "pod_sandbox_id"), _text(message.filter, "id")
