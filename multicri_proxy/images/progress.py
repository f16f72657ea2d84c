"""How far a pull is, for people: a bar that is drawn over on a terminal, else a line whenever there is news."""

from collections.abc import Mapping
from shutil import get_terminal_size
from typing import Any, TextIO

from multicri_proxy.images.table import shown, size_text

_WIDTH = 24
_CLEAR_LINE = "\r\x1b[K"


def bar(done_bytes: int, of_bytes: int) -> str:
    """``[######------]  50%  1.2MB of 2.4MB``; without the whole, only how much there is."""
    if not of_bytes:
        return size_text(done_bytes)
    part = min(1.0, done_bytes / of_bytes)
    filled = int(_WIDTH * part)
    drawn = f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {int(100 * part):3d}%"
    return f"{drawn}  {size_text(done_bytes) if done_bytes else '0B'} of {size_text(of_bytes)}"


class Progress:
    """Shows rows with ``progress`` as they come."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._on_terminal = stream.isatty()
        self._is_drawn = False
        self._told: tuple[str, int] | None = None

    def show(self, row: Mapping[str, Any]) -> None:
        """row: ``progress`` and, if it is known, ``done_bytes`` and ``of_bytes``."""
        text, done, of = shown(row["progress"]), row.get("done_bytes", 0), row.get("of_bytes", 0)
        if self._on_terminal:
            line = f"{bar(done, of)}  {text}" if done or of else text
            self._stream.write(f"{_CLEAR_LINE}{line[: get_terminal_size().columns - 1]}")
            self._is_drawn = True
        elif self._told != (news := (text, 10 * done // of if of else 0)):
            self._told = news
            self._stream.write(f"{text}: {bar(done, of)}\n" if done else f"{text}\n")
        self._stream.flush()

    def clear(self) -> None:
        """What comes next begins a line."""
        if self._is_drawn:
            self._stream.write(_CLEAR_LINE)
            self._is_drawn = False
