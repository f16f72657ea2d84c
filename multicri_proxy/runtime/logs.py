"""CRI's log format: ``<RFC 3339 time> stdout|stderr P|F <text>``.

P is a part of a line that goes on in the next entry of its stream, F is a whole line or the last part of one. What a
container writes after its last newline becomes a P that nothing follows, as containerd has it: the kubelet's reader
adds a newline after F and none after P, so that ``kubectl logs`` prints exactly what was written.
Source: Kubernetes' design proposal "kubelet-cri-logging"; containerd's internal/cri/io/logger.go.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

from multicri_proxy.api.adapter import OutputStream

LONGEST_TEXT_BYTES = 16 * 1024
"""A longer line is split. containerd's default as well."""


class Entry(NamedTuple):
    """text: without the newline that ``ends_line`` stands for. A tuple, for there are as many as there are lines."""

    text: bytes
    ends_line: bool


class Splitter:
    """Cuts one stream into entries. Keeps the unfinished end of the last line, which is bounded."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[Entry]:
        """The entries that are complete now."""
        entries: list[Entry] = []
        *lines, rest = (self._tail + data).split(b"\n")
        for line in lines:
            if len(line) <= LONGEST_TEXT_BYTES:
                entries.append(Entry(line, ends_line=True))
                continue
            parts = _parts(line)
            entries += (Entry(part, ends_line=False) for part in parts[:-1])
            entries.append(Entry(parts[-1], ends_line=True))
        parts = _parts(rest)
        entries += (Entry(part, ends_line=False) for part in parts[:-1])
        self._tail = parts[-1]
        return entries

    def end(self) -> list[Entry]:
        """The last entry, if the stream ended without a newline."""
        tail, self._tail = self._tail, b""
        return [Entry(tail, ends_line=False)] if tail else []


def entry_lines(entries: Sequence[Entry], stream: OutputStream, now_ns: int) -> bytes:
    """The entries as they stand in the log file."""
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    prefix = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z {stream.value} ".encode()
    return b"".join(
        piece for entry in entries for piece in (prefix, b"F " if entry.ends_line else b"P ", entry.text, b"\n")
    )


def consumed_bytes(entries: Sequence[Entry]) -> int:
    """How much of the stream these entries are."""
    return sum(len(entry.text) + entry.ends_line for entry in entries)


def _parts(line: bytes) -> list[bytes]:
    """The line in parts of a bounded length; one empty part if it is empty."""
    starts = range(0, max(1, len(line)), LONGEST_TEXT_BYTES)
    return [line[start : start + LONGEST_TEXT_BYTES] for start in starts]
