"""A record with its messages decoded, for whoever must look inside: filters, redaction, output. Not in a call's way."""

from dataclasses import dataclass, replace

from google.protobuf.message import Message

from multicri_proxy.dump.record import Record
from multicri_proxy.dump.schema import Types, decoded, types_of

LARGEST_SHOWN_BYTES = 2 * 1024 * 1024
"""A larger message is written by its size alone: decoding one holds up every other thread of the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Messages that are None while their record has bytes could not be decoded."""

    record: Record
    request: Message | None = None
    changed_request: Message | None = None
    reply: Message | None = None


def entry_of(record: Record) -> Entry:
    record = _without_large(record)
    types = types_of(record.path)
    if types is None:
        return Entry(record=record)

    def body(data: bytes | None, kind: type[Message]) -> Message | None:
        return None if data is None else decoded(kind, data)

    return Entry(
        record=record,
        request=body(record.request, types.request),
        changed_request=body(record.changed_request, types.request),
        reply=body(record.reply, types.reply),
    )


def kind_of(types: Types, body: str) -> type[Message]:
    """body: a record's attribute."""
    return types.reply if body == "reply" else types.request


def _without_large(record: Record) -> Record:
    if record.held_bytes <= LARGEST_SHOWN_BYTES:
        return record

    def body(data: bytes | None) -> bytes | None:
        return None if data is not None and len(data) > LARGEST_SHOWN_BYTES else data

    return replace(
        record,
        request=body(record.request),
        changed_request=body(record.changed_request),
        reply=body(record.reply),
    )
