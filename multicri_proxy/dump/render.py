"""Records as people and programs read them: YAML documents, with colour on a terminal, or JSON Lines."""

import base64
import difflib
import os
import re
from collections.abc import Callable
from typing import Literal

from google.protobuf.message import Message

from multicri_proxy.dump.entry import LARGEST_SHOWN_BYTES, Entry
from multicri_proxy.dump.plain import Plain, plain
from multicri_proxy.dump.record import Kind, Record, head, json_line
from multicri_proxy.dump.rules import Level
from multicri_proxy.dump.text import yaml_line, yaml_text

Render = Callable[[Entry], str]
"""An entry's text, with the end of its last line."""

Format = Literal["yaml", "json"]

_LONGEST_DIFF_LINES = 5000
_RED, _GREEN, _YELLOW, _BLUE, _GREY, _RESET = (f"\x1b[{code}m" for code in ("31", "32", "33", "34", "90", "0"))
_KEY = re.compile(r"((?:- )*)([\w./-]+)(:(?: .*)?)")


def render_of(
    format: Format,  # noqa: A002  (the setting's name)
    *,
    colour: bool = False,
    metadata: bool = False,
    decoded: bool = True,
) -> Render:
    """colour: of YAML, unless NO_COLOR is set. decoded: see `json_render`."""
    if format == "json":
        return json_render(decoded=decoded, metadata=metadata)
    return yaml_render(colour=colour and "NO_COLOR" not in os.environ, metadata=metadata)


def yaml_render(*, colour: bool = False, metadata: bool = False) -> Render:
    """One YAML document for each record: a line at level ``name``, head and messages at level ``full``."""

    def render(entry: Entry) -> str:
        record = entry.record
        facts = _head(record)
        if record.level is Level.FULL and record.kind is not Kind.DROPPED:
            if metadata:
                facts |= _metadata(record)
            text = f"---\n{yaml_text(facts | _bodies(entry))}"
        else:
            text = f"--- {yaml_line(facts)}\n"
        return _coloured(text, record) if colour else text

    return render


def json_render(*, decoded: bool = True, metadata: bool = False) -> Render:
    """One line of JSON for each record. decoded: with the messages for people and jq, besides their bytes."""

    def render(entry: Entry) -> str:
        shown = decoded and entry.record.level is Level.FULL and entry.record.kind is not Kind.DROPPED
        return json_line(entry.record, metadata=metadata, more=_bodies(entry, undecodable=False) if shown else {})

    return render


def _head(record: Record) -> Plain:
    facts = head(record)
    if record.kind is Kind.CALL:
        del facts["kind"]
    if record.kind is not Kind.DROPPED:
        facts["method"] = record.method if record.path.startswith("/runtime.v1.") else record.path
    return facts


def _metadata(record: Record) -> Plain:
    return {
        name: [
            f"{key}: {value if isinstance(value, str) else base64.b64encode(value).decode()}" for key, value in items
        ]
        for name in ("metadata", "trailing_metadata")
        if (items := getattr(record, name))
    }


def _bodies(entry: Entry, *, undecodable: bool = True) -> Plain:
    record = entry.record
    shown: Plain = {}
    if record.kind in {Kind.CALL, Kind.WAITING, Kind.REQUEST}:
        shown |= _body("request", entry.request, record.request, record.request_size, undecodable=undecodable)
    if record.changed_request is not None:
        shown["policy_diff"] = _diff(entry)
    if record.kind is Kind.REPLY or (record.kind is Kind.CALL and record.code == "OK"):
        shown |= _body("reply", entry.reply, record.reply, record.reply_size, undecodable=undecodable)
    return shown


def _body(name: str, message: Message | None, data: bytes | None, size: int, *, undecodable: bool) -> Plain:
    """undecodable: with the bytes of what cannot be decoded."""
    if message is not None:
        return {name: plain(message)}
    if data is None:
        reason = "too large to show" if size > LARGEST_SHOWN_BYTES else "withheld: it could not be searched for secrets"
        return {f"{name}_not_shown": f"{size} bytes, {reason}"} if size else {name: {}}
    if not undecodable:
        return {f"{name}_undecoded": f"{size} bytes"}
    return {f"{name}_undecoded": {"size": size, "base64": base64.b64encode(data).decode()}}


def _diff(entry: Entry) -> str:
    """What a policy changed in the request, as a diff of the two YAML texts."""
    if entry.request is None or entry.changed_request is None:
        return "a message that cannot be decoded was changed"
    before, after = (yaml_text(plain(message)).split("\n") for message in (entry.request, entry.changed_request))
    if len(before) + len(after) > _LONGEST_DIFF_LINES:
        return f"{len(before)} lines became {len(after)}: too long to compare"
    lines = difflib.unified_diff(before, after, "as the kubelet asked", "as the runtime got it", lineterm="")
    return "\n".join(lines) or "nothing that is known of CRI differs"


def _coloured(text: str, record: Record) -> str:
    lines = text.rstrip("\n").split("\n")
    if record.kind is Kind.DROPPED:
        tint = _YELLOW
    elif record.code in {"", "OK"}:
        tint = _GREEN if record.code else _GREY
    else:
        tint = _RED
    if len(lines) == 1:
        return f"{tint}{lines[0]}{_RESET}\n"
    painted = [f"{tint}{lines[0]} # {record.method} {record.code}{_RESET}"]
    diff_indent = ""
    for line in lines[1:]:
        body = line.lstrip(" ")
        indent = line[: len(line) - len(body)]
        diff_indent = "  " if line.startswith("policy_diff:") else diff_indent if indent else ""
        if diff_indent and indent:
            colour = {"+": _GREEN, "-": _RED}.get(line[2:3], "")
            painted.append(f"{colour}{line}{_RESET}" if colour else line)
        elif match := _KEY.fullmatch(body):
            painted.append(f"{indent}{match[1]}{_BLUE}{match[2]}{_RESET}{match[3]}")
        else:
            painted.append(line)
    return "\n".join(painted) + "\n"
