"""What the tap writes down of a call, and its form as one line of JSON."""

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from multicri_proxy.calls import Metadata
from multicri_proxy.dump.rules import Level
from multicri_proxy.dump.text import json_text

_HELD_BESIDES_BYTES = 1024
"""Roughly what a record takes in memory without its messages."""


class Kind(StrEnum):
    """What a record tells."""

    CALL = "call"
    """A unary call from its beginning to its end."""
    WAITING = "waiting"
    """A unary call that has had no answer for a while; its CALL comes later."""
    REQUEST = "request"
    """A message from the client of a stream."""
    REPLY = "reply"
    """A message to the client of a stream."""
    END = "end"
    """The end of a stream."""
    DROPPED = "dropped"
    """Records are missing here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Messages that are None were not taken; their size is known all the same.

    time_ns: since the epoch; of a call, its beginning. latency_ns: since the call's beginning. code: gRPC's name
    of the status, "" as long as there is none. changed_request: what a policy made of the request.
    level: in what detail it is kept. pod, container: what they are called, as far as whoever took it knew.
    records: how many are missing, of DROPPED.
    """

    kind: Kind
    call_id: str
    path: str
    time_ns: int
    latency_ns: int = 0
    timeout_s: float | None = None
    owner: str = ""
    code: str = ""
    details: str = ""
    request: bytes | None = None
    changed_request: bytes | None = None
    reply: bytes | None = None
    request_size: int = 0
    reply_size: int = 0
    metadata: Metadata = ()
    trailing_metadata: Metadata = ()
    level: Level = Level.FULL
    pod: str = ""
    container: str = ""
    records: int = 0
    redacted: bool = False

    @property
    def method(self) -> str:
        """``CreateContainer``."""
        return self.path.rpartition("/")[2]

    @property
    def held_bytes(self) -> int:
        return (
            _HELD_BESIDES_BYTES
            + len(self.request or b"")
            + len(self.changed_request or b"")
            + len(self.reply or b"")
            + len(self.details)
        )


def time_text(time_ns: int) -> str:
    """RFC 3339 in UTC, with microseconds."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z"


def head(record: Record) -> dict[str, Any]:
    """Everything but the messages, what is empty left out."""
    facts: dict[str, Any] = {"time": time_text(record.time_ns), "kind": record.kind.value}
    if record.kind is Kind.DROPPED:
        return facts | {"records": record.records}
    facts |= {"call": record.call_id, "method": record.path}
    if record.kind is not Kind.REQUEST:
        facts["latency_ms"] = round(record.latency_ns / 1e6, 3)
    for name in ("owner", "code", "details", "pod", "container"):
        if value := getattr(record, name):
            facts[name] = value
    if record.timeout_s is not None:
        facts["timeout_s"] = round(record.timeout_s, 3)
    return facts


_BODIES = ("request", "changed_request", "reply")


def json_line(record: Record, *, metadata: bool, more: dict[str, Any]) -> str:
    """One line, with its end; messages as base64. more: facts for people, not read back."""
    facts = head(record)
    if record.kind is not Kind.DROPPED:
        facts |= {"time_ns": record.time_ns, "latency_ns": record.latency_ns}
        facts |= {name: size for name in ("request_size", "reply_size") if (size := getattr(record, name))}
        facts["level"] = record.level.name.lower()
    if record.redacted:
        facts["redacted"] = True
    if metadata:
        for name in ("metadata", "trailing_metadata"):
            if items := getattr(record, name):
                facts[name] = [[key, _text(value)] for key, value in items]
    facts |= more
    for name in _BODIES:
        if (data := getattr(record, name)) is not None:
            facts[f"{name}_base64"] = base64.b64encode(data).decode()
    return f"{json_text(facts)}\n"


def from_json_line(line: bytes | str) -> Record:
    """Raises ValueError if the line is no record."""
    facts = json.loads(line)
    if not isinstance(facts, dict):
        raise ValueError("a record is an object")  # noqa: TRY004  (of the file's text, not of our arguments)
    try:
        bodies = {name: base64.b64decode(facts[f"{name}_base64"]) for name in _BODIES if f"{name}_base64" in facts}
        return Record(
            kind=Kind(facts["kind"]),
            call_id=str(facts.get("call", "")),
            path=str(facts.get("method", "")),
            time_ns=int(facts["time_ns"]) if "time_ns" in facts else _time_ns(facts["time"]),
            latency_ns=int(facts.get("latency_ns", 0)),
            timeout_s=float(facts["timeout_s"]) if "timeout_s" in facts else None,
            owner=str(facts.get("owner", "")),
            code=str(facts.get("code", "")),
            details=str(facts.get("details", "")),
            request_size=int(facts.get("request_size", 0)),
            reply_size=int(facts.get("reply_size", 0)),
            metadata=_metadata(facts.get("metadata", ())),
            trailing_metadata=_metadata(facts.get("trailing_metadata", ())),
            level=Level[str(facts.get("level", "full")).upper()],
            pod=str(facts.get("pod", "")),
            container=str(facts.get("container", "")),
            records=int(facts.get("records", 0)),
            redacted=bool(facts.get("redacted", False)),
            **bodies,
        )
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _time_ns(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _text(value: str | bytes) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _metadata(items: Any) -> Metadata:
    return tuple((str(key), base64.b64decode(value) if key.endswith("-bin") else str(value)) for key, value in items)
