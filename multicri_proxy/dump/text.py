"""YAML and JSON of plain values, written in small steps.

A thread that formats shares the interpreter with the event loop. PyYAML's and json's C code would keep it for tens of
milliseconds when a node's thousand containers are listed; Python code lets go of it whenever the loop wants it.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

_WORD = r"[A-Za-z0-9_./@+=-]+(?::[A-Za-z0-9_./@+=-]+)*"
_PLAIN = re.compile(rf"(?=[A-Za-z/]){_WORD}(?: {_WORD})*")
_HEX_ID = re.compile(r"(?!0b)[0-9]+[a-df][0-9a-f]*")
"""No YAML, old or new, takes it for a number."""
_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_LONGEST_KEY = 500
_JSON_STEPS = 3


def yaml_text(values: dict[str, Any]) -> str:
    """A YAML mapping in block style, keys in their order. Holds no control characters but line ends."""
    return "".join(f"{line}\n" for line in _mapping(values, ""))


def yaml_line(values: dict[str, Any]) -> str:
    """A YAML mapping of scalars in flow style, without the line's end."""
    return "{" + ", ".join(f"{_key(key)}: {_scalar(value, flow=True)}" for key, value in values.items()) + "}"


def json_text(value: Any, steps: int = _JSON_STEPS) -> str:
    """As json.dumps writes it, without spaces."""
    if steps and isinstance(value, dict):
        items = (f"{json.dumps(key)}:{json_text(item, steps - 1)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if steps and isinstance(value, list):
        return "[" + ",".join([json_text(item, steps - 1) for item in value]) + "]"
    return json.dumps(value, separators=(",", ":"))


def _mapping(values: dict[str, Any], indent: str) -> Iterator[str]:
    for key, value in values.items():
        head = f"{indent}{_key(key)}:"
        if isinstance(value, dict) and value:
            yield head
            yield from _mapping(value, f"{indent}  ")
        elif isinstance(value, list) and value:
            yield head
            yield from _sequence(value, indent)
        elif isinstance(value, str) and _fits_block(value):
            yield f"{head} {_block_mark(value)}"
            yield from _block(value, f"{indent}  ")
        else:
            yield f"{head} {_scalar(value)}"


def _sequence(items: list[Any], indent: str) -> Iterator[str]:
    for item in items:
        if isinstance(item, dict) and item:
            lines = _mapping(item, f"{indent}  ")
            yield f"{indent}- {next(lines)[len(indent) + 2 :]}"
            yield from lines
        elif isinstance(item, str) and _fits_block(item):
            yield f"{indent}- {_block_mark(item)}"
            yield from _block(item, f"{indent}  ")
        else:
            yield f"{indent}- {_scalar(item)}"


def _fits_block(text: str) -> bool:
    """Can it stand there line by line?"""
    return (
        "\n" in text
        and text[0] not in " \n\t"
        and not text.endswith("\n\n")
        and all(line.replace("\t", "").isprintable() for line in text.split("\n"))
    )


def _block_mark(text: str) -> str:
    return "|" if text.endswith("\n") else "|-"


def _block(text: str, indent: str) -> Iterator[str]:
    for line in text.removesuffix("\n").split("\n"):
        yield f"{indent}{line}" if line else ""


def _key(key: str) -> str:
    return _scalar(key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}…")


def _scalar(value: Any, *, flow: bool = False) -> str:
    if isinstance(value, str):
        return _string(value, flow=flow)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _float(value)
    return {"None": "null"}.get(text := str(value), text)


def _string(text: str, *, flow: bool) -> str:
    bare = _PLAIN.fullmatch(text) and text.lower() not in _RESERVED and not (flow and ":" in text)
    if bare or _HEX_ID.fullmatch(text):
        return text
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")
