"""Programs of ours that do for the daemon what may block, use much, or meet what is not trusted.

One is a module with a ``main``. It reads one line of JSON from stdin, does as it says, and writes a line of JSON to
stdout; before that, maybe, lines with a number: how far it is. Its stdin is open for as long as somebody waits for
it: a child that sees its end is wanted no more, also when the daemon was killed.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Lock, Thread
from typing import IO


async def ask(
    module: str, question: Mapping[str, object], progress: Callable[[int], None] = lambda _: None
) -> dict[str, object]:
    """What a program of ours answers; it is killed, with all that it began, if nobody waits any more.

    progress: is told how far it is. Raises OSError or ValueError if it ends without an answer.
    """
    loop = asyncio.get_running_loop()
    child = _Child(module, lambda done: loop.call_soon_threadsafe(progress, done))
    try:
        answer: dict[str, object] = json.loads(await _in_a_thread(partial(child.answer, json.dumps(question).encode())))
        return answer
    finally:
        child.kill()


def end_with_who_asks(question: IO[bytes]) -> None:
    """For a thread of such a program: ends it, and all that it has begun, as soon as nobody waits for its answer."""
    question.read(1)
    os.killpg(0, signal.SIGKILL)


def _in_a_thread(work: Callable[[], bytes]) -> "asyncio.Future[bytes]":
    """In one of its own: it may wait for an hour, and those that are kept for short work are few."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()

    def finish(settle: Callable[[], None]) -> None:
        if not done.done():
            settle()

    def run() -> None:
        try:
            settle = partial(done.set_result, work())
        except Exception as error:
            settle = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, settle)

    Thread(target=run, name="child", daemon=True).start()
    return done


class _Child:
    """One process, in a group of its own.

    Not asyncio's: that forks, which gRPC's threads have a hard time with; subprocess does not.
    """

    def __init__(self, module: str, progress: Callable[[int], object]) -> None:
        self._module = module
        self._progress = progress
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def answer(self, question: bytes) -> bytes:
        """Blocks until it has said everything, or is killed."""
        with self._lock:
            if self._killed:
                return b""
            process = self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        assert process.stdin is not None and process.stdout is not None  # noqa: S101  (they were asked for)
        with process, process.stdin, process.stdout:
            process.stdin.write(question + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                if not line.strip().isdigit():
                    return line
                self._progress(int(line))
        return b""

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            if self._process is not None and self._process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
