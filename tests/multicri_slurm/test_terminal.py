"""The program that gives a container a terminal, without a cluster."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from multicri_slurm import terminal

PATIENCE_S = 60.0


def begun(directory: Path, script: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-I", "-S", terminal.__file__, "/bin/sh", "-c", script]
    with (directory / "stdout").open("wb") as output:
        return subprocess.Popen(words, cwd=directory, stdin=stdin, stdout=output)


def until_said(directory: Path, words: bytes) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while words not in (said := (directory / "stdout").read_bytes()):
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


@pytest.mark.parametrize(("end", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("", 0)])
def test_all_that_a_program_says_in_its_terminal_is_copied_and_its_code_passed_on(
    tmp_path: Path, end: str, code: int
) -> None:
    script = f"stty size; head -c 300000 /dev/zero | tr '\\0' x; echo; echo last >&2; sleep 1000 & {end}"
    assert begun(tmp_path, script).wait(PATIENCE_S) == code
    said = (tmp_path / "stdout").read_bytes()
    assert said == b"24 80\r\n" + b"x" * 300_000 + b"\r\nlast\r\n"


def test_the_terminal_has_a_name_and_a_term_is_passed_on(tmp_path: Path) -> None:
    process = begun(tmp_path, "trap 'echo caught; exit 7' TERM; tty; while :; do sleep 0.05; done")
    until_said(tmp_path, b"/dev/")
    assert (tmp_path / "stdout").read_text().strip() == (tmp_path / "terminal").read_text().strip()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 7
    until_said(tmp_path, b"caught")


def test_what_comes_through_a_pipe_is_typed_and_its_end_ends_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdin")
    writer = os.open(tmp_path / "stdin", os.O_RDWR)
    reader = os.open(tmp_path / "stdin", os.O_RDONLY)
    process = begun(tmp_path, "cat; echo over", reader)
    os.close(reader)
    os.write(writer, b"line\n")
    until_said(tmp_path, b"line\r\nline\r\n")
    os.close(writer)
    assert process.wait(PATIENCE_S) == 0
    until_said(tmp_path, b"over\r\n")


def test_it_is_written_for_the_python_of_old_clusters() -> None:
    ast.parse(Path(terminal.__file__).read_text(), feature_version=(3, 6))
