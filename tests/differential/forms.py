"""Answers in a form that two runs of the same calls agree on. What is put aside here differs between two direct runs.

`exact` puts aside order alone: Go writes a map's entries in another order each time, and containerd keeps what it lists
in maps, so that a list that fails names whichever item came first. `normal` also puts aside

- ids, which `Names` replaces where the run was told them, and a pattern where not (processes of exec, snapshots);
- times, and what is measured: processor time, memory, inodes, bytes;
- what the node gives out anew: addresses, network namespaces, process ids, tokens of streaming URLs.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from differential.calls import Seen, Sent
from differential.names import Names
from differential.standing import LABEL
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.methods import V1, V1ALPHA2

Form = tuple[object, ...]

_RESPONSES: Mapping[str, type[Message]] = {
    f"/{version}.{service.name}/{method.name}": GetMessageClass(method.output_type)
    for version in (V1, V1ALPHA2)
    for service in cri.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

_TIMES = frozenset({"created_at", "started_at", "finished_at"})

_MEASURED = object()
"""A counter, or when it was read. Whether it is there at all is put aside as well: some are rates, and want two
measurements, and disks are measured every ten seconds."""

_TEXT = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), "<time>"),
    (re.compile(r"\b\d{1,3}(\.\d{1,3}){3}\b"), "<ip>"),
    (re.compile(r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b"), "<mac>"),
    (re.compile(r"\bveth[0-9a-f]{8}\b"), "<veth>"),
    (re.compile(r'"pid":\d+|/proc/\d+/ns/'), "<pid>"),
    (re.compile(r"/(exec|attach|portforward)/[A-Za-z0-9_-]{8}$"), r"/\1/<token>"),
    (re.compile(r"(//<ip>):\d+/"), r"\1:<port>/"),
)


def exact(sent: Sent, seen: Seen) -> Form:
    """All of an answer but the order of map entries and list items."""
    messages = tuple((len(raw), _unordered(sent, raw)) for raw in seen.messages)
    details = _text(seen.details) if sent.method.startswith("List") else seen.details
    return (seen.code, details, seen.initial, seen.trailing, messages)


def normal(sent: Sent, seen: Seen, names: Names) -> Form:
    """All of an answer that two runs have in common."""
    details = _text(names.named(seen.details.encode()).decode())
    if seen.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = ""  # the client's words or the runtime's: both watch the same clock
    messages = tuple(_normal_message(sent, names.named(raw)) for raw in seen.messages)
    return (seen.code, details, seen.initial, seen.trailing, messages)


def _decoded(sent: Sent, raw: bytes) -> Message | None:
    response = _RESPONSES.get(sent.path)
    if response is None:
        return None
    message = response()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        return None
    return message


def _unordered(sent: Sent, raw: bytes) -> bytes:
    message = _decoded(sent, raw)
    if message is None:
        return bytes(sorted(raw))
    _sort_lists(message, lambda item: item.SerializeToString(deterministic=True))
    return message.SerializeToString(deterministic=True)


def _sort_lists(message: Message, key: Callable[[Any], Any]) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.is_repeated and descriptor.message_type and not _is_map(descriptor):
            value.sort(key=key)


def _normal_message(sent: Sent, raw: bytes) -> object:
    message = _decoded(sent, raw)
    if message is None:
        return _text(raw.decode("latin-1"))
    form = _normal(message)
    for name, value in form.items():
        if isinstance(value, list):  # of a list: pods that others make meanwhile are not part of the sequence
            form[name] = sorted((item for item in value if _is_ours(item)), key=repr)
    return form


def _normal(message: Message) -> dict[str, object]:
    """Fields by name; a decoded message's unknown fields are in its serialized rest, by their size."""
    known: dict[str, object] = {
        descriptor.name: _normal_field(descriptor, value) for descriptor, value in message.ListFields()
    }
    without = type(message)()
    without.CopyFrom(message)
    without.DiscardUnknownFields()
    known["unknown bytes"] = message.ByteSize() - without.ByteSize()
    return {name: value for name, value in known.items() if value is not _MEASURED}


def _normal_field(descriptor: FieldDescriptor, value: Any) -> object:
    if _is_map(descriptor):
        return {key: _text(str(value[key])) for key in sorted(value)}
    if descriptor.is_repeated:
        return [_normal_value(descriptor, item) for item in value]
    return _normal_value(descriptor, value)


def _normal_value(descriptor: FieldDescriptor, value: Any) -> object:
    if isinstance(value, cri.UInt64Value) or descriptor.name == "timestamp":
        return _MEASURED
    if descriptor.message_type:
        return _normal(value)
    if descriptor.name in _TIMES:
        return "<time>"
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    for pattern, name in _TEXT:
        value = pattern.sub(name, value)
    return value


def _is_ours(item: object) -> bool:
    """Whether a listed item is of a pod of these tests, or none of a pod."""
    if not isinstance(item, dict):
        return True
    attributes = item.get("attributes", item)
    return "metadata" not in attributes or LABEL in attributes.get("labels", {})


def _is_map(descriptor: FieldDescriptor) -> bool:
    return bool(descriptor.message_type and descriptor.message_type.GetOptions().map_entry)
