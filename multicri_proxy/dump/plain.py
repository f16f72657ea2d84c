"""A message as dicts, lists and scalars that a person can read. Not reversible: the bytes stand beside it."""

import base64
from typing import Any

from google.protobuf.message import Message

Plain = dict[str, Any]
_Field = Any
"""A FieldDescriptor, of which there are two kinds: protobuf's in Python and its own in C."""


def plain(message: Message) -> Plain:
    """Fields by CRI's names, in their order. Bytes are text if they can be, else ``base64:…``.

    Fields at their default are left out, as on the wire; enums are not, for their 0 means something.
    """
    found = {field.number: (field, value) for field, value in message.ListFields()}
    shown: Plain = {}
    for field in message.DESCRIPTOR.fields:
        if field.number in found:
            shown[field.name] = _field(*found[field.number])
        elif field.enum_type is not None and not field.is_repeated and not field.has_presence:
            shown[field.name] = _enum(field, 0)
    return shown


def _field(field: _Field, value: Any) -> Any:
    if _is_map(field):
        of = field.message_type.fields_by_name["value"]
        return {key: _scalar(of, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_scalar(field, item) for item in value]
    return _scalar(field, value)


def _is_map(field: _Field) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _scalar(field: _Field, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return _enum(field, value)
    return readable(value) if isinstance(value, bytes) else value


def _enum(field: _Field, number: int) -> str | int:
    """A number that we have no name for stays one."""
    known = field.enum_type.values_by_number.get(number) if field.enum_type else None
    return known.name if known else number


def readable(data: bytes) -> str:
    """Text, or ``base64:…`` if it is none."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(data).decode()}"
    return text
