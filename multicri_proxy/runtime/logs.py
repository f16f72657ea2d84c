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
    """One or more whole lines, or a part of a line: at most `LONGEST_TEXT_BYTES`.

    text: without the last newline, which ``ends_line`` stands for. A program that floods its log writes short lines:
    one object for each would cost more than all else that is done to it.
    """

    text: bytes
    ends_line: bool


class Splitter:
    """Cuts one stream into entries. Keeps the unfinished end of the last line, which is bounded."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[Entry]:
        """The entries that are complete now."""
        data = self._tail + data
        entries: list[Entry] = []
        start = 0
        while True:
            window = start + LONGEST_TEXT_BYTES + 1
            newline = data.rfind(b"\n", start, window)
            if newline >= 0:
                entries.append(Entry(data[start:newline], ends_line=True))
                start = newline + 1
            elif window <= len(data):
                entries.append(Entry(data[start : window - 1], ends_line=False))
                start = window - 1
            else:
                break
        self._tail = data[start:]
        return entries

    def end(self) -> list[Entry]:
        """The last entry, if the stream ended without a newline."""
        tail, self._tail = self._tail, b""
        return [Entry(tail, ends_line=False)] if tail else []


def entry_lines(entries: Sequence[Entry], stream: OutputStream, now_ns: int) -> bytes:
    """The entries as they stand in the log file."""
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    prefix = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z {stream.value} ".encode()
    whole, part = prefix + b"F ", prefix + b"P "
    between = b"\n" + whole
    return b"".join(
        piece
        for entry in entries
        for piece in (
            (whole, entry.text.replace(b"\n", between), b"\n") if entry.ends_line else (part, entry.text, b"\n")
        )
    )


def consumed_bytes(entries: Sequence[Entry]) -> int:
    """How much of the stream these entries are."""
    return sum(len(entry.text) + entry.ends_line for entry in entries)
