"""Logging: a constant message, facts in fields.

    log = Log("slurm")
    log.info("job submitted", job_id=17, sandbox_id="3f…")

prints ``2026-11-21T23:32:24.123Z INFO slurm: job submitted job_id=17 sandbox_id=3f…``. Values that hold
anything but plain characters are quoted, and long ones are cut, so that no pod author writes log lines.
"""

import json
import logging
import os
import queue
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler, QueueListener
from threading import Thread

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]+")
_LONGEST_VALUE = 512
_LAST_WORDS_S = 2.0
_MOST_WAITING = 10_000
"""Lines that may wait for a slow reader."""


class Log:
    """A named logger that takes facts as keyword arguments."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"multicri.{name}")

    def debug(self, message: str, **facts: object) -> None:
        self._say(logging.DEBUG, message, facts)

    def info(self, message: str, **facts: object) -> None:
        self._say(logging.INFO, message, facts)

    def warning(self, message: str, **facts: object) -> None:
        self._say(logging.WARNING, message, facts)

    def error(self, message: str, **facts: object) -> None:
        self._say(logging.ERROR, message, facts)

    def defect(self, message: str, error: BaseException, **facts: object) -> None:
        """An error that nobody expected, with its traceback."""
        self._say(logging.ERROR, message, facts, error)

    def _say(self, level: int, message: str, facts: dict[str, object], error: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            line = " ".join([message, *(f"{key}={_quoted(value)}" for key, value in facts.items())])
            self._logger.log(level, "%s", line, exc_info=error)


@contextmanager
def writing_to_stderr(level: str) -> Iterator[None]:
    """Send every log line to stderr, from a thread of its own: a reader that is stuck delays nobody.

    level: ``debug``, ``info``, ``warning`` or ``error``; `set_level` changes it.
    """
    stderr = _Stderr()
    stderr.setFormatter(_Line())
    listener = _Listener(queue.Queue(_MOST_WAITING), stderr)
    root = logging.getLogger()
    root.handlers[:] = [_Dropping(listener.queue)]
    root.setLevel(logging.WARNING)
    set_level(level)
    listener.start()
    try:
        yield
    finally:
        # whoever is stuck in reading must not keep us from ending
        last_words = Thread(target=listener.stop, name="last log lines", daemon=True)
        last_words.start()
        last_words.join(_LAST_WORDS_S)


def set_level(level: str) -> None:
    """Which lines of ours are written from now on."""
    logging.getLogger("multicri").setLevel(level.upper())


class _Stderr(logging.Handler):
    """Writes to the descriptor, without a lock that `logging.shutdown` would wait for: one thread alone comes here."""

    def createLock(self) -> None:  # noqa: N802  (the base class names it so)
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            os.write(sys.stderr.fileno(), f"{self.format(record)}\n".encode(errors="backslashreplace"))


class _Listener(QueueListener):
    """One that may be told to stop while nothing can be put into its queue: then it ends with the process."""

    def enqueue_sentinel(self) -> None:
        with suppress(queue.Full):
            super().enqueue_sentinel()


class _Dropping(QueueHandler):
    """Drops what finds no place, and says how much when there is room again."""

    _dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            if self._dropped:
                self.queue.put_nowait(_lost(self._dropped))
                self._dropped = 0
            self.queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1


def _lost(count: int) -> logging.LogRecord:
    return logging.LogRecord("multicri.log", logging.WARNING, "", 0, "log lines dropped: %d", (count,), None)


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        name = record.name.removeprefix("multicri.")
        line = f"{seconds}.{int(record.msecs):03d}Z {record.levelname} {name}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _quoted(value: object) -> str:
    text = str(value)
    if len(text) > _LONGEST_VALUE:
        text = f"{text[:_LONGEST_VALUE]}..."
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
