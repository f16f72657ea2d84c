"""Children of the daemon's loop."""

import asyncio
import os
import signal
from asyncio.subprocess import PIPE
from collections.abc import Coroutine
from typing import TypeVar

import pytest

from multicri_proxy.loop import Loop

_T = TypeVar("_T")
FORKS: list[int] = []
os.register_at_fork(before=lambda: FORKS.append(os.getpid()))


def run(work: Coroutine[None, None, _T]) -> _T:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(asyncio.wait_for(work, 60))


async def said(*words: str, given: bytes = b"") -> tuple[bytes, bytes, int | None]:
    child = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = await child.communicate(given)
    return out, err, child.returncode


def test_streams_and_exit_code_are_the_childs_own() -> None:
    text = b"x" * 300_000
    assert run(said("sh", "-c", "cat; echo no >&2; exit 7", given=text)) == (text, b"no\n", 7)


def test_a_signal_that_ended_it_is_told() -> None:
    assert run(said("sh", "-c", "kill -9 $$")) == (b"", b"", -signal.SIGKILL)


def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(FileNotFoundError):
        run(said("/no/such/program"))


def test_nothing_of_python_runs_between_the_daemon_and_the_program() -> None:
    FORKS.clear()
    run(said("true"))
    assert FORKS == []
