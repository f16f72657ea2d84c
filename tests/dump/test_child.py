"""Records are formatted in another process, which may be slow, stuck or dead."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dump.conftest import Daemon
from dump.doubles import RUNTIME, Collected, until
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.child import FormatterProcess, Recipe
from multicri_proxy.dump.dumper import Listener
from multicri_proxy.dump.record import Kind, Record
from multicri_proxy.dump.redact import DEFAULT_NAMES
from multicri_proxy.dump.rules import Rules

RECIPE = Recipe(rules=Rules.parse("full:.*"), redact_names=DEFAULT_NAMES)
VERSION, CREATE = RUNTIME + "Version", RUNTIME + "CreateContainer"


def call(path: str = VERSION, request: bytes = b"") -> Record:
    return Record(kind=Kind.CALL, call_id="1", path=path, time_ns=0, code="OK", request=request, reply=b"")


def with_variables(**variables: str) -> Record:
    envs = [cri.KeyValue(key=key, value=value.encode()) for key, value in variables.items()]
    return call(CREATE, cri.CreateContainerRequest(config=cri.ContainerConfig(envs=envs)).SerializeToString())


@contextmanager
def running(recipe: Recipe = RECIPE) -> Iterator[FormatterProcess]:
    process = FormatterProcess(recipe)
    yield process
    process.close()


def children() -> list[int]:
    """Our child processes that format."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in pids if b"multicri_proxy.dump.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_its_texts_are_those_of_a_formatter_in_this_process() -> None:
    record = with_variables(DB_PASSWORD="open sesame", LANG="C")
    with running() as process:
        assert process.text(record) == RECIPE.formatter().text(record)
        assert "sesame" not in (process.text(record) or "")


async def test_it_takes_what_grpc_calls_metadata(daemon: Daemon, tmp_path: Path) -> None:
    daemon.backend.answers(VERSION, b"")
    process, sink = FormatterProcess(replace(RECIPE, metadata=True)), Collected()
    async with daemon.dumper.listening(Listener("a test", process, sink)):
        await daemon.call("Version")
        await until(lambda: "user-agent" in sink.text)


def test_a_regular_expression_without_end_costs_a_record_and_no_more() -> None:
    endless = Recipe(rules=RECIPE.rules, redact_names="(A+)+$", longest_s=1)
    with running(endless) as process:
        with pytest.raises(OSError, match=f"ended with status -{signal.SIGALRM.value}"):
            process.text(with_variables(**{"A" * 64 + "!": "x"}))
        assert "Version" in (process.text(call()) or "")


def test_one_that_was_killed_is_started_anew_and_the_next_record_is_told() -> None:
    with running() as process:
        process.text(call())
        [first] = children()
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert "Version" in (process.text(call()) or "")
        assert children() != [first]


def test_it_outlives_the_signals_that_end_the_daemon_and_not_the_daemon() -> None:
    with running() as process:
        process.text(call())
        [child] = children()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(child, number)
        assert "Version" in (process.text(call()) or "")
    assert not children()
    with pytest.raises(OSError, match="was ended"):
        process.text(call())


def test_nothing_is_started_for_calls_that_nobody_wants() -> None:
    with running(Recipe(rules=Rules.parse("full:CreateContainer"), redact_names=None)) as process:
        assert process.wants(CREATE)
        assert not process.wants(VERSION)
        assert not children()
