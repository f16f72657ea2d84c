"""A formatter in a process of its own: neither a list of thousands nor a slow regular expression takes the interpreter
from a call. The daemon writes pickled questions to the child's stdin, the child answers with text.
"""

import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from multicri_proxy.calls import Call
from multicri_proxy.dump.format import Formatter, learnable
from multicri_proxy.dump.record import Record
from multicri_proxy.dump.redact import Redactor
from multicri_proxy.dump.render import Format, render_of
from multicri_proxy.dump.rules import Rules
from multicri_proxy.dump.subject import Wanted

_NICENESS = 10
_OOM_SCORE = 500
"""Calls come first, also when memory is short. Source: proc(5), oom_score_adj."""

_ANSWER = struct.Struct("<cQ")
_TEXT, _NOTHING, _DEFECT = b"t", b"n", b"d"

_EVERYTHING = Wanted()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a `Formatter` is made of.

    redact_names: of secret variables; None shows everything. longest_s: what takes longer is a regular expression
    without end, and ends the child by its own alarm.
    """

    rules: Rules
    redact_names: str | None
    wanted: Wanted = _EVERYTHING
    format: Format = "yaml"
    colour: bool = False
    metadata: bool = False
    decoded: bool = True
    longest_s: int = 10

    def formatter(self) -> Formatter:
        return Formatter(
            rules=self.rules,
            render=render_of(self.format, colour=self.colour, metadata=self.metadata, decoded=self.decoded),
            redactor=None if self.redact_names is None else Redactor(self.redact_names),
            wanted=self.wanted,
        )


class FormatterProcess:
    """Does what the recipe's `Formatter` does. The child starts with the first question, and anew if it has died.

    Texts are asked for by one thread at a time, and wait for the child; `close` may come from another one.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._chooser = Formatter(rules=recipe.rules, render=lambda _: "", redactor=None, wanted=recipe.wanted)
        self._starting = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    def wants(self, path: str) -> bool:
        return self._chooser.wants(path)

    def wants_messages(self, path: str) -> bool:
        return self._chooser.wants_messages(path)

    def text(self, record: Record) -> str | None:
        """Raises OSError if the child is gone or had to be killed, RuntimeError if it failed."""
        return self._ask("text", record)

    def learn(self, record: Record) -> None:
        self._ask("learn", record)

    def learn_from(self, call: Call, answer: bytes) -> None:
        """From what a runtime answers: the names of what runs."""
        self.learn(learnable(call, answer))

    @property
    def wants_some(self) -> bool:
        """Whether only what is about certain pods or containers is wanted."""
        return bool(self._recipe.wanted)

    def close(self) -> None:
        with self._starting:
            self._closed = True
            if self._child:
                _end(self._child)

    def _ask(self, verb: str, record: Record) -> str | None:
        child = self._running()
        try:
            assert child.stdin and child.stdout  # noqa: S101  (both are pipes)
            pickle.dump((verb, _portable(record)), child.stdin, pickle.HIGHEST_PROTOCOL)
            child.stdin.flush()
            kind, size = _ANSWER.unpack(_whole(child.stdout, _ANSWER.size))
            text = _whole(child.stdout, size).decode()
        except (OSError, EOFError):
            _end(child)
            raise OSError(f"the process that formats them has ended with status {child.returncode}") from None
        if kind == _DEFECT:
            raise RuntimeError(text)
        return text if kind == _TEXT else None

    def _running(self) -> subprocess.Popen[bytes]:
        with self._starting:
            if self._closed:
                raise OSError("the process that formats them was ended")
            if self._child and self._child.poll() is not None:
                _end(self._child)
                self._child = None
            if self._child is None:
                argv = [sys.executable, "-P", "-m", __name__]
                self._child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
                assert self._child.stdin  # noqa: S101  (it is a pipe)
                pickle.dump(self._recipe, self._child.stdin, pickle.HIGHEST_PROTOCOL)
            return self._child


def _portable(record: Record) -> Record:
    """gRPC's own pairs cannot be pickled."""
    return replace(
        record,
        metadata=tuple((key, value) for key, value in record.metadata),
        trailing_metadata=tuple((key, value) for key, value in record.trailing_metadata),
    )


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):  # what was not sent is lost
            if pipe:
                pipe.close()


def _whole(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main(questions: IO[bytes], answers: IO[bytes]) -> None:
    """The child, until the daemon closes its end. Whoever ends the daemon wants its last words."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    recipe = pickle.load(questions)  # noqa: S301  (the daemon's own)
    formatter = recipe.formatter()
    while True:
        try:
            verb, record = pickle.load(questions)  # noqa: S301
        except EOFError:
            return
        signal.alarm(recipe.longest_s)
        try:
            text = getattr(formatter, verb)(record)
            kind = _NOTHING if text is None else _TEXT
        except Exception as error:  # whatever it is, the next record may do
            kind, text = _DEFECT, f"{type(error).__name__}: {error}"
        signal.alarm(0)
        data = (text or "").encode(errors="backslashreplace")
        try:
            answers.write(_ANSWER.pack(kind, len(data)) + data)
            answers.flush()
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
