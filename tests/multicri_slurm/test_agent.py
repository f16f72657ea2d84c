"""The program that runs commands on a container's node, and the proxy's side of it: without a cluster."""

import ast
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicri_slurm import agent
from multicri_slurm.agent_link import KNOWN, Frames

GREETING = b"here I am\n"
PATIENCE_S = 60.0


class Talk:
    """A conversation with an agent."""

    def __init__(self, directory: Path) -> None:
        argv = [sys.executable, "-I", "-S", agent.__file__, GREETING.decode().strip()]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory)
        self.said: dict[tuple[int, int], bytes] = {}
        self._frames = Frames()
        assert self.process.stdout
        assert self.process.stdout.readline() == GREETING

    def say(self, kind: int, number: int, payload: bytes = b"") -> None:
        assert self.process.stdin
        self.process.stdin.write(agent.frame(kind, number, payload))
        self.process.stdin.flush()

    def start(self, number: int, script: str, mode: bytes = agent.PIPES) -> None:
        self.say(agent.START, number, b"\0".join([mode, b"/bin/sh", b"-c", script.encode()]))

    def give(self, number: int, kind: int, amount: int) -> None:
        self.say(agent.CREDIT, number, agent.AMOUNT.pack(kind, amount))

    def hear(self) -> bool:
        """What comes next, if it comes soon; False at the end."""
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], 0.1)[0]:
            return True
        piece = os.read(self.process.stdout.fileno(), 65536)
        for kind, number, payload in self._frames.take(piece):
            self.said[kind, number] = self.said.get((kind, number), b"") + payload
        return bool(piece)

    def until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end, self.said
            self.hear()

    def result(self, number: int) -> tuple[int, bytes, bytes]:
        self.until(lambda: (agent.EXIT, number) in self.said)
        output = (self.said.get((kind, number), b"") for kind in (agent.STDOUT, agent.STDERR))
        return self.said[agent.EXIT, number][0], *output

    def end(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        while self.hear():
            pass
        self.process.stdout.close()
        assert self.process.wait(PATIENCE_S) == 0


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    talk = Talk(tmp_path)
    yield talk
    if talk.process.poll() is None:
        talk.end()
    assert talk.process.stdin
    assert talk.process.stdout
    talk.process.stdin.close()
    talk.process.stdout.close()


def runs(path: Path) -> bool:
    """Whether the process that has written its number there runs: it may be a zombie that nobody reaps."""
    return bool(agent.start_time(int(path.read_text())))


def test_commands_run_beside_each_other_with_streams_and_codes_of_their_own(talk: Talk) -> None:
    talk.start(1, "cat; echo bad >&2; exit 3")
    talk.start(2, "echo two; kill -9 $$", agent.NO_INPUT)
    talk.say(agent.INPUT, 1, b"\0\xff binary")
    assert talk.result(2) == (137, b"two\n", b"")
    talk.say(agent.INPUT_END, 1)
    assert talk.result(1) == (3, b"\0\xff binary", b"bad\n")


def test_a_program_that_is_not_there_is_told(talk: Talk) -> None:
    talk.say(agent.START, 1, b"\0".join([agent.NO_INPUT, b"/no/such/program"]))
    code, _, stderr = talk.result(1)
    assert code == 126
    assert b"/no/such/program" in stderr


def test_nobody_waits_for_a_slow_reader_and_its_output_comes_whole(talk: Talk) -> None:
    size = 3 * agent.WINDOW_BYTES
    talk.start(1, f"head -c {size} /dev/zero", agent.NO_INPUT)
    talk.until(lambda: len(talk.said.get((agent.STDOUT, 1), b"")) == agent.WINDOW_BYTES)
    talk.start(2, "echo quick", agent.NO_INPUT)
    assert talk.result(2) == (0, b"quick\n", b"")
    assert (agent.EXIT, 1) not in talk.said
    talk.give(1, agent.STDOUT, size)
    assert talk.result(1) == (0, bytes(size), b"")


def test_input_is_taken_as_it_is_read_and_no_faster(talk: Talk) -> None:
    talk.start(1, "read -r go; cat | wc -c")
    talk.say(agent.INPUT, 1, b"\n" + bytes(agent.WINDOW_BYTES - 1))
    talk.until(lambda: (agent.CREDIT, 1) in talk.said)
    granted = sum(
        agent.AMOUNT.unpack(talk.said[agent.CREDIT, 1][at : at + agent.AMOUNT.size])[1]
        for at in range(0, len(talk.said[agent.CREDIT, 1]), agent.AMOUNT.size)
    )
    assert 0 < granted <= agent.WINDOW_BYTES
    talk.say(agent.INPUT_END, 1)
    assert talk.result(1)[1].strip() == str(agent.WINDOW_BYTES - 1).encode()


def test_input_for_a_command_that_reads_none_is_dropped(talk: Talk) -> None:
    talk.start(1, "exec < /dev/null; sleep 0.3; echo done")
    for _ in range(20):
        talk.say(agent.INPUT, 1, bytes(agent.LARGEST_PIECE_BYTES))
    assert talk.result(1)[:2] == (0, b"done\n")


@pytest.mark.parametrize("how", ["it is killed", "it has ended", "the other side is gone"])
def test_what_a_command_has_begun_ends_with_it(talk: Talk, tmp_path: Path, how: str) -> None:
    """Also a process whose parent has ended."""
    begin = "(sh -c 'sleep 1000 > /dev/null 2>&1 & echo $! > child') & wait; echo begun"
    talk.start(1, begin if how == "it has ended" else f"{begin}; sleep 1000", agent.NO_INPUT)
    talk.until(lambda: talk.said.get((agent.STDOUT, 1)) == b"begun\n")
    if how == "it is killed":
        talk.say(agent.KILL, 1)
        assert talk.result(1)[0] == 137
    elif how == "it has ended":
        assert talk.result(1)[0] == 0
    else:
        talk.end()
    deadline = time.monotonic() + PATIENCE_S
    while runs(tmp_path / "child"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_terminal_has_a_size_an_interrupt_and_an_end_of_input(talk: Talk) -> None:
    talk.start(1, "trap 'echo caught' INT; tty > /dev/null && echo yes; read -r _; stty size; cat", agent.TERMINAL)
    talk.until(lambda: b"yes" in talk.said.get((agent.STDOUT, 1), b""))
    talk.say(agent.RESIZE, 1, agent.SIZE_OF_TERMINAL.pack(37, 101))
    talk.say(agent.INPUT, 1, b"\x03")
    talk.until(lambda: b"caught" in talk.said[agent.STDOUT, 1])
    talk.say(agent.INPUT, 1, b"\n")
    talk.until(lambda: b"37 101" in talk.said[agent.STDOUT, 1])
    talk.say(agent.INPUT_END, 1)
    assert talk.result(1)[0] == 0


def test_it_ends_with_the_container_and_not_with_a_signal_before(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as container:
        (tmp_path / "process").write_text(f"{container.pid}\n/\n")
        talk = Talk(tmp_path)
        talk.process.send_signal(signal.SIGTERM)
        talk.start(1, "echo still here", agent.NO_INPUT)
        assert talk.result(1)[:2] == (0, b"still here\n")
        container.kill()
    while talk.hear():
        pass
    assert talk.process.wait(PATIENCE_S) == 0
    talk.end()


def listening(talk: Talk) -> tuple[int, bytes]:
    """A port that was free, and what the agent says of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    talk.say(agent.LISTEN, 0, agent.PORT.pack(port))
    talk.until(lambda: (agent.LISTENS, 0) in talk.said)
    return port, talk.said[agent.LISTENS, 0]


def test_who_connects_is_a_stream_whose_halves_end_on_their_own(talk: Talk) -> None:
    port, words = listening(talk)
    assert words == b""
    first = agent.OURS + 1
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        talk.until(lambda: (agent.OUTPUT_END, first) in talk.said)
        assert talk.said[agent.STDOUT, first] == b"question"
        assert (agent.EXIT, first) not in talk.said
        size = 50 * agent.LARGEST_PIECE_BYTES
        for _ in range(50):
            talk.say(agent.INPUT, first, bytes(agent.LARGEST_PIECE_BYTES))
        talk.say(agent.INPUT_END, first)
        came = 0
        while piece := client.recv(65536):
            came += len(piece)
        assert came == size
    talk.until(lambda: (agent.EXIT, first) in talk.said)


def test_a_connection_that_is_not_wanted_is_closed(talk: Talk) -> None:
    port, _ = listening(talk)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        talk.until(lambda: (agent.CONNECTION, agent.OURS + 1) in talk.said)
        talk.say(agent.KILL, agent.OURS + 1)
        assert client.recv(1) == b""
    talk.until(lambda: (agent.EXIT, agent.OURS + 1) in talk.said)


def test_a_port_that_is_taken_is_told(talk: Talk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        talk.say(agent.LISTEN, 0, agent.PORT.pack(taken.getsockname()[1]))
        talk.until(lambda: (agent.LISTENS, 0) in talk.said)
    assert b"in use" in talk.said[agent.LISTENS, 0]


def test_it_is_written_for_the_python_of_old_clusters() -> None:
    ast.parse(Path(agent.__file__).read_text(), feature_version=(3, 6))


@given(st.binary(max_size=64), st.lists(st.integers(1, 9), min_size=1))
def test_whatever_comes_is_frames_or_nonsense(data: bytes, sizes: list[int]) -> None:
    frames, number = Frames(), 0
    try:
        while data:
            size = sizes[number % len(sizes)]
            for kind, _, payload in frames.take(data[:size]):
                assert kind in KNOWN
                assert len(payload) <= agent.LARGEST_PIECE_BYTES
            data, number = data[size:], number + 1
    except ValueError as error:
        assert "a frame of" in str(error)
