"""Files, pipes and disks that misbehave."""

import asyncio
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from dump.doubles import RUNTIME, ScriptedRuntime, until
from multicri_proxy.calls import Call
from multicri_proxy.dump.dumper import Dumper
from multicri_proxy.dump.read import DumpFiles
from multicri_proxy.dump.record import Kind
from multicri_proxy.dump.redact import DEFAULT_NAMES
from multicri_proxy.dump.rules import Rules
from multicri_proxy.dump.sinks import FileSink, StreamSink
from multicri_proxy.dump.start import dumping
from multicri_proxy.dump.tap import Tap

VERSION = f"{RUNTIME}Version"


def sink(path: Path, max_bytes: int = 1000, files: int = 3) -> FileSink:
    return FileSink(path, max_bytes=max_bytes, files=files)


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    sink(path).write(b"a\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    sink(path).write(b"b\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(b"before\n")
    sink(path).write(b"after\n")
    assert path.read_bytes() == b"before\nafter\n"


def test_a_line_that_was_cut_short_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(b"befo")
    sink(path).write(b"after\n")
    assert path.read_bytes() == b"befo\nafter\n"


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "dump").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="Too many levels"):
        sink(tmp_path / "dump").write(b"a\n")
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "elsewhere").touch()
    with pytest.raises(OSError, match="Too many levels"):
        sink(tmp_path / "dump").write(b"a\n")


def test_files_are_rotated_by_size_and_the_oldest_removed(tmp_path: Path) -> None:
    written = sink(tmp_path / "dump", max_bytes=10, files=3)
    for letter in b"abcdefg":
        written.write(bytes([letter]) * 4 + b"\n")
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {"dump": b"gggg\n", "dump.1": b"eeee\nffff\n", "dump.2": b"cccc\ndddd\n"}


def test_one_file_alone_starts_anew(tmp_path: Path) -> None:
    written = sink(tmp_path / "dump", max_bytes=10, files=1)
    for letter in b"abc":
        written.write(bytes([letter]) * 4 + b"\n")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"cccc\n"]


def test_a_record_larger_than_a_file_may_be_gets_one_for_itself(tmp_path: Path) -> None:
    written = sink(tmp_path / "dump", max_bytes=10, files=3)
    for text in (b"a\n", b"b" * 50 + b"\n", b"c\n"):
        written.write(text)
    assert [len((tmp_path / name).read_bytes()) for name in ("dump.2", "dump.1", "dump")] == [2, 51, 2]


def test_a_file_that_was_moved_away_by_others_goes_on_where_it_is(tmp_path: Path) -> None:
    written = sink(tmp_path / "dump")
    written.write(b"a\n")
    (tmp_path / "dump").rename(tmp_path / "moved")
    written.write(b"b\n")
    assert (tmp_path / "moved").read_bytes() == b"a\nb\n"


def test_a_pipe_whose_reader_sleeps_is_given_up_when_it_must() -> None:
    reader, writer = os.pipe()
    stuck = StreamSink(writer, owned=True)
    outcome: list[OSError] = []

    def write() -> None:
        try:
            stuck.write(b"x" * 1_000_000)
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    os.read(reader, 1)
    stuck.abandon()
    thread.join(60)
    assert not thread.is_alive()
    assert outcome
    stuck.close()
    os.close(reader)


async def calls_in_time(tap: Tap, number: int = 100) -> None:
    async with asyncio.timeout(60):
        for _ in range(number):
            await tap.call(Call(path=VERSION, request=b"\n\x050.1.0"))


async def until_dropped(dumper: Dumper, number: int = 1) -> None:
    async with asyncio.timeout(60):
        while dumper.dropped < number:
            await asyncio.sleep(0.01)


@pytest.fixture
def runtime() -> ScriptedRuntime:
    runtime = ScriptedRuntime()
    runtime.answer(VERSION)
    return runtime


async def test_calls_go_on_before_a_fifo_that_nobody_reads(tmp_path: Path, runtime: ScriptedRuntime) -> None:
    fifo, dumper = tmp_path / "fifo", Dumper()
    os.mkfifo(fifo)
    tap = Tap(runtime, dumper)
    async with to_file(dumper, fifo):
        await calls_in_time(tap)
        await until_dropped(dumper, 100)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        await calls_in_time(tap, 30)
    with os.fdopen(reader, "rb") as file:
        lines = file.read().splitlines()
    assert b'"dropped"' in lines[0]
    assert (len(lines) - 1, dumper.dropped) == (30, 100)


async def test_calls_go_on_before_a_fifo_whose_reader_sleeps(tmp_path: Path, runtime: ScriptedRuntime) -> None:
    fifo, dumper = tmp_path / "fifo", Dumper()
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    tap = Tap(runtime, dumper)
    async with to_file(dumper, fifo):
        for _ in range(50):
            await calls_in_time(tap)
        await until_dropped(dumper)
    with os.fdopen(reader, "rb") as file:
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    calls = [line for line in lines if b'"kind":"dropped"' not in line]
    assert len(calls) + dumper.dropped == 5000


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def test_calls_go_on_while_the_disk_is_full_and_records_when_it_is_not(
    tiny_disk: Path, runtime: ScriptedRuntime
) -> None:
    dumper = Dumper()
    tap = Tap(runtime, dumper)
    ballast, path = tiny_disk / "ballast", tiny_disk / "dump"
    ballast.write_bytes(bytes(250_000))
    async with to_file(dumper, path):
        await calls_in_time(tap)
        await until_dropped(dumper)
        ballast.unlink()
        await calls_in_time(tap)
        await until(lambda: path.read_bytes().count(b'"kind":"call"') + dumper.dropped >= 200)
    files = DumpFiles(paths=[path])
    records = list(files.records())
    calls = [record for record in records if record.kind is Kind.CALL]
    assert len(calls) + dumper.dropped == 200
    assert sum(record.records for record in records) == dumper.dropped
    assert len(files.unread) <= 1  # the line that the disk had no more room for


async def test_a_file_and_stderr_get_the_same(
    tmp_path: Path, runtime: ScriptedRuntime, capfd: pytest.CaptureFixture[str]
) -> None:
    dumper = Dumper()
    async with dumping(
        dumper,
        rules=Rules.parse("short:.*"),
        file=tmp_path / "dump",
        to_stderr=True,
        format="yaml",
        max_bytes=1000,
        files=2,
        redact_names=DEFAULT_NAMES,
    ):
        await Tap(runtime, dumper).call(Call(path=VERSION, request=b""))
        said = ""

        def shown() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "method: Version" in said

        await until(shown)
    text = (tmp_path / "dump").read_text()
    assert "method: Version" in text
    assert text in said + capfd.readouterr().err


async def test_without_rules_nobody_listens(tmp_path: Path) -> None:
    dumper = Dumper()
    async with to_file(dumper, tmp_path / "dump", rules=""):
        assert dumper.listeners == ()
    assert not (tmp_path / "dump").exists()


def to_file(dumper: Dumper, path: Path, rules: str = "full:.*") -> AbstractAsyncContextManager[None]:
    return dumping(
        dumper,
        rules=Rules.parse(rules),
        file=path,
        to_stderr=False,
        format="json",
        max_bytes=10_000_000,
        files=2,
        redact_names=DEFAULT_NAMES,
    )
