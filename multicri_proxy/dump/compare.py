"""Compares a recorded reply with a new one: what differs beyond ids, times and measurements."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.plain import plain
from multicri_proxy.dump.redact import REDACTED

_TIMES = frozenset({"created_at", "started_at", "finished_at", "timestamp"})
_OF_THE_MOMENT = frozenset({"url", "info", "ip"})
"""One-time URLs, text for people full of pids, addresses from a pool."""

_NOT_COMPARED = _TIMES | _OF_THE_MOMENT
_MEASUREMENTS = frozenset({cri.UInt64Value.DESCRIPTOR, cri.PsiStats.DESCRIPTOR})
_LONGEST_VALUE = 60


def differences(recorded: Message, replayed: Message, ids: Mapping[str, str]) -> list[str]:
    """Each as ``status.exit_code: 0 → 1``. ids: what a recorded id is called now.

    Items of a reply's own lists may come in any order. A redacted value equals any other.
    """
    before, after = (_comparable(message, known) for message, known in ((recorded, ids), (replayed, {})))
    return _walk("", before, after)


def with_new_ids(request: Message, ids: Mapping[str, str]) -> Message:
    """The same request with every string that is a recorded id replaced."""
    new = type(request)()
    new.CopyFrom(request)
    if ids:
        _replace_ids(new, ids)
    return new


def _comparable(message: Message, ids: Mapping[str, str]) -> Any:
    message = with_new_ids(message, ids)
    _forget(message)
    shown: dict[str, Any] = plain(message)
    for field in message.DESCRIPTOR.fields:
        if isinstance(items := shown.get(field.name), list):
            items.sort(key=str)
    return shown


def _forget(message: Any) -> None:
    """Clear what cannot be the same twice."""
    for field, value in message.ListFields():
        of = field.message_type
        if of is None or of.GetOptions().map_entry:
            if field.name in _NOT_COMPARED:
                message.ClearField(field.name)
        elif of in _MEASUREMENTS:
            message.ClearField(field.name)
        else:
            for item in value if field.is_repeated else (value,):
                _forget(item)


def _replace_ids(message: Any, ids: Mapping[str, str]) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key, item in value.items():
                if isinstance(item, str) and item in ids:
                    value[key] = ids[item]
        elif field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                _replace_ids(item, ids)
        elif field.is_repeated and field.cpp_type == field.CPPTYPE_STRING:
            for index, item in enumerate(value):
                if item in ids:
                    value[index] = ids[item]
        elif isinstance(value, str) and value in ids:
            setattr(message, field.name, ids[value])


def _walk(path: str, before: Any, after: Any) -> list[str]:
    if before in (after, REDACTED):
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        prefix = f"{path}." if path else ""
        return [line for key in keys for line in _walk(f"{prefix}{key}", before.get(key), after.get(key))]
    if isinstance(before, list) or isinstance(after, list):
        old, new = before or [], after or []
        if len(old) != len(new):
            return [f"{path}: {len(old)} items → {len(new)}"]
        pairs = zip(old, new, strict=True)
        return [line for index, pair in enumerate(pairs) for line in _walk(f"{path}[{index}]", *pair)]
    return [f"{path}: {_short(before)} → {_short(after)}"]


def _short(value: Any) -> str:
    if value is None:
        return "absent"
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
