"""What surrounds a command in a container, read and written: without a cluster."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicri_slurm.answers import first_node
from multicri_slurm.entering import script_of
from multicri_slurm.marks import Marks

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.ids import JobId

NONCE = "0123456789abcdef"


def script(*command: str, terminal: bool = False) -> str:
    return script_of(
        job_id=JobId(7),
        node="c1",
        directory="/home/a/d",
        nonce=NONCE,
        command=command,
        stdin=True,
        terminal=terminal,
        ranks=False,
    )


@given(output=st.binary(max_size=200), sizes=st.lists(st.integers(1, 40), min_size=1))
def test_a_commands_output_is_its_own_however_it_is_cut(output: bytes, sizes: list[int]) -> None:
    marks, took, number = Marks(NONCE), b"", 0
    said = (
        f"Welcome!\nmulticri-{NONCE}:begin\r\n".encode() + output + f"multicri-{NONCE}:exit=3\r\nsrun: bye\n".encode()
    )
    while said:
        size = sizes[number % len(sizes)]
        took += marks.take(said[:size])
        said, number = said[size:], number + 1
    assert took + marks.end() == output
    assert (marks.word, marks.noise) == ("exit=3", b"Welcome!\n")


def test_what_may_be_a_mark_waits_and_everything_else_goes_out_at_once() -> None:
    marks = Marks(NONCE)
    marks.take(f"multicri-{NONCE}:begin\n".encode())
    assert marks.take(b"$ ") == b"$ "
    assert marks.take(b"multi") == b""
    assert marks.take(b"ply") == b"multiply"
    assert marks.take(b"mul") + marks.end() == b"mul"


def test_noise_without_a_begin_is_kept_up_to_a_limit() -> None:
    marks = Marks(NONCE)
    for _ in range(100):
        assert marks.take(b"srun: error: no such job\n" * 50 + b"x" * 5000) == b""
    marks.end()
    assert len(marks.noise) <= 2048
    assert not marks.begun


@pytest.mark.parametrize(
    ("nodes", "node"),
    [
        ("c1", "c1"),
        ("c[01-03,7],d1", "c01"),
        ("a1,b2", "a1"),
        ("r[1-2]n[3,4]", "r1n3"),
        ("", ""),
        ("None assigned", ""),
    ],
)
def test_a_jobs_script_runs_on_its_first_node(nodes: str, node: str) -> None:
    assert first_node(nodes) == node


@pytest.mark.parametrize("terminal", [True, False])
def test_no_word_of_a_command_is_read_by_a_shell(terminal: bool) -> None:
    words = ("$(touch /tmp/x)", "'; exit 9; '", "a\nb", "*", "@SRUN@ é", "")
    text = script(*words, terminal=terminal)
    found = shlex.split(text[text.index("srun --jobid") :].partition(" <&3")[0])
    assert tuple(found[-len(words) :]) == words


def test_a_command_that_no_ssh_would_carry_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="64 KiB"):
        script("x" * 70_000)
