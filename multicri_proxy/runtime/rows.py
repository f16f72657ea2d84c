"""Records as rows of the ledger, in JSON. A row may have fields that are not born yet, never fewer than are needed."""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from typing import Any

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.runtime.records import Container, ContainerState, LogPosition, Sandbox, SandboxState

_Record = Sandbox | Container | LogPosition


def row_of(record: _Record) -> bytes:
    return json.dumps({one.name: _plain(getattr(record, one.name)) for one in fields(record)}).encode()


def sandbox_from_row(row: bytes) -> Sandbox:
    """Raises FailedPrecondition: a sandbox that is left out would be a pod whose jobs are cancelled."""
    with _reading():
        values = _values(Sandbox, row)
        values["namespace_options"] = _bytes(values["namespace_options"])
        values["state"] = SandboxState(values["state"])
        values["additional_ips"] = tuple(values.get("additional_ips", ()))
        return Sandbox(**values)


def container_from_row(row: bytes) -> Container:
    """Raises FailedPrecondition: a container that is left out would be a job that is cancelled."""
    with _reading():
        values = _values(Container, row)
        values["mounts"] = tuple(map(_bytes, values["mounts"]))
        values["state"] = ContainerState(values["state"])
        return Container(**values)


def log_position_from_row(row: bytes) -> LogPosition:
    """Raises FailedPrecondition."""
    with _reading():
        values = _values(LogPosition, row)
        for name in ("read_bytes", "start_read_bytes"):
            values[name] = {OutputStream(stream): size for stream, size in values[name].items()}
        values["ended"] = frozenset(map(OutputStream, values["ended"]))
        return LogPosition(**values)


def _plain(value: object) -> object:
    match value:
        case Enum():
            return value.value
        case bytes():
            return b64encode(value).decode()
        case Mapping():
            return {_plain(key): _plain(one) for key, one in value.items()}
        case tuple() | frozenset():
            return [_plain(one) for one in value]
    return value


def _values(kind: type[_Record], row: bytes) -> dict[str, Any]:
    found = json.loads(row)
    if not isinstance(found, dict):
        raise TypeError("it is no record")
    return {one.name: found[one.name] for one in fields(kind) if one.name in found}


def _bytes(text: str) -> bytes:
    return b64decode(text, validate=True)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise FailedPrecondition(f"the ledger holds a row that this version cannot read: {error}") from error
