"""Reads single strings out of a serialized protobuf message, and leaves the rest alone.

Routing needs an id or a name from a request whose other fields may be unknown to us, large, or from next
year. Source: the protobuf encoding guide (wire types, and that the last value of a singular field wins).
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZE = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10
_MOST_FIELDS = 10_000
"""On one level. No request of CRI has nearly as many, and to read millions of them would hold up other calls."""


class Malformed(ValueError):
    """The bytes are no protobuf message."""


def text_at(message: bytes, path: tuple[int, ...]) -> str:
    """The string at a path of field numbers: ``(1, 3)`` is field 3 of the message in field 1.

    Returns "" if it is not there, as protobuf does. Raises Malformed if the message, as far as it had to
    be read, is none.
    """
    found: bytes | memoryview | None = _only_value(message, path)
    if found is None:
        found = b""
        for found in _values(memoryview(message), path):  # noqa: B007  (the last one wins)
            pass
    try:
        return bytes(found).decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"field {path} is not UTF-8") from error


def _only_value(message: bytes, path: tuple[int, ...]) -> bytes | None:
    """The value, if the message is nothing but it and it is short, as nearly every request for one object is."""
    tag = path[0] << 3 | _LENGTH
    if len(path) != 1 or tag >= 0x80 or len(message) < 2 or message[0] != tag:
        return None
    return message[2:] if message[1] == len(message) - 2 < 0x80 else None


def _values(message: memoryview, path: tuple[int, ...]) -> Iterator[memoryview]:
    position, end, fields = 0, len(message), 0
    while position < end:
        fields += 1
        if fields > _MOST_FIELDS:
            raise Malformed(f"more than {_MOST_FIELDS} fields")
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _LENGTH:
            size, position = _varint(message, position)
        elif wire_type == _VARINT:
            _, position = _varint(message, position)
            continue
        elif wire_type in _FIXED_SIZE:
            size = _FIXED_SIZE[wire_type]
        else:
            raise Malformed(f"wire type {wire_type} at byte {position}")
        value, position = message[position : position + size], position + size
        if position > end:
            raise Malformed("cut short")
        if number == path[0] and wire_type == _LENGTH:
            if len(path) == 1:
                yield value
            else:
                yield from _values(value, path[1:])


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(message[position : position + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise Malformed(f"no number at byte {position}")
