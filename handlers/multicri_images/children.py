"""Programs of ours that do for the daemon what may block, use much, or meet what is not trusted.

One is a module with a ``main``. It reads one line of JSON from stdin, does as it says, and writes a line of JSON to
stdout. Its stdin is open for as long as somebody waits for it: a child that sees its end is wanted no more, also when
the daemon was killed.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import IO


async def ask(module: str, question: Mapping[str, object], executor: Executor | None = None) -> dict[str, object]:
    """What a program of ours answers; it is killed, with all that it began, if nobody waits any more.

    executor: of the thread that waits for it.

    Raises OSError or ValueError if it ends without an answer.
    """
    child = _Child(module)
    try:
        line = await asyncio.get_running_loop().run_in_executor(executor, child.answer, json.dumps(question).encode())
        answer: dict[str, object] = json.loads(line)
        return answer
    finally:
        child.kill()


def end_with_who_asks(question: IO[bytes]) -> None:
    """For a thread of such a program: ends it, and all that it has begun, as soon as nobody waits for its answer."""
    question.read(1)
    os.killpg(0, signal.SIGKILL)


class _Child:
    """One process, in a group of its own.

    Not asyncio's: that forks, which gRPC's threads have a hard time with; subprocess does not.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
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
            return process.stdout.read()

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            if self._process is not None and self._process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
