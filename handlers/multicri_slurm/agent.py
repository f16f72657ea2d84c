"""Runs commands on a container's node, one beside the other, for as long as somebody is at its stdin.

The text of this file goes there, and is all of the project that is there: it needs Python 3.6 and its standard library.
What it runs ends with it, and with the container; a command that ends takes its session along.

Both sides speak frames: kind, number of the command, length, and so many bytes. Of each stream no more is sent than
there is credit for: `WINDOW_BYTES` at first, and what CREDIT gives. So a slow reader stops nobody else.

Told to, it listens on a port of the node's loopback, too. Who connects there is a command that nobody has started: what
it says is STDOUT, which it may end before it goes.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = struct.Struct(">BII")
AMOUNT = struct.Struct(">BI")  # of a CREDIT: the stream's kind, and bytes
SIZE_OF_TERMINAL = struct.Struct(">HH")  # rows, columns
CODE = struct.Struct(">B")

START, INPUT, INPUT_END, CREDIT, RESIZE, KILL, STDOUT, STDERR, EXIT = range(1, 10)
LISTEN, LISTENS, CONNECTION, OUTPUT_END = range(10, 14)
OURS = 0x80000000  # begins the numbers of connections: who connects is told of by the agent
PORT = struct.Struct(">H")
TERMINAL, PIPES, NO_INPUT = b"terminal", b"pipes", b"no input"

WINDOW_BYTES = 128 * 1024
CREDIT_STEP_BYTES = WINDOW_BYTES // 4
LARGEST_PIECE_BYTES = 32 * 1024
MOST_OUTGOING_BYTES = 256 * 1024
LOOK_MS, HURRIED_LOOK_MS = 2000, 200
LAST_WORDS_S = 2.0
MOST_ROUNDS = 100
MOST_CONNECTIONS, BACKLOG = 64, 64  # three descriptors each, and as many a command: a process may have 1024
PR_SET_CHILD_SUBREAPER = 36
END_OF_INPUT = b"\x04"


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(kind, number, len(payload)) + payload


class Command:
    """What was started, and our ends of its streams. inlet: where its stdin is written to.

    waiting: of its stdin, what it has not taken yet. taken: what it has, since there was credit for it.
    outlets: by STDOUT and STDERR; credit: for each.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes] | None", inlet: "int | None", outlets: "dict[int, int]"
    ) -> None:
        self.process = process
        self.inlet = inlet
        self.waiting = bytearray()
        self.taken = 0
        self.input_ends = False
        self.outlets = outlets
        self.credit = dict.fromkeys(outlets, WINDOW_BYTES)
        self.exit_code: int | None = None

    def close_inlet(self) -> None:
        if self.inlet is not None:
            os.close(self.inlet)
        self.inlet = None

    def close(self) -> None:
        self.close_inlet()

    def kill(self, container: "int | None") -> None:
        if self.process is not None:
            kill(self.process.pid, container)


class Connection(Command):
    """Somebody who has connected."""

    def __init__(self, client: socket.socket) -> None:
        super().__init__(None, os.dup(client.fileno()), {STDOUT: os.dup(client.fileno())})
        self._client = client

    def close_inlet(self) -> None:
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)
        super().close_inlet()

    def kill(self, container: "int | None") -> None:
        while self.outlets:
            os.close(self.outlets.popitem()[1])
        self.close()

    def close(self) -> None:
        super().close()
        self._client.close()


class Agent:
    """Serves whoever is at stdin and stdout. Every wait is in `_turn`."""

    def __init__(self) -> None:
        self._commands: dict[int, Command] = {}
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._hung_up = False
        self._hurried = False
        self._listener: socket.socket | None = None
        self._last_connection = 0
        self._container = Container()
        self._woken, waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda number, stack: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._hurry)

    def run(self, greeting: bytes) -> None:
        self._outgoing += greeting
        try:
            while not self._hung_up and not (self._container.is_gone() and self._may_leave()):
                self._turn()
        finally:
            for command in self._commands.values():
                command.kill(self._container.pid)

    def _hurry(self, number: int, stack: object) -> None:
        """Slurm ends the job, or only signals it: the container decides."""
        self._hurried = True

    def _may_leave(self) -> bool:
        """Commands that end with their container have some time to say so."""
        return not self._commands or self._container.gone_for_s() > LAST_WORDS_S

    def _turn(self) -> None:
        poll = select.poll()
        actions: dict[int, Callable[[], object]] = {}

        def when(event: int, descriptor: int, action: "Callable[[], object]") -> None:
            poll.register(descriptor, event)
            actions[descriptor] = action

        when(select.POLLIN, 0, self._take)
        when(select.POLLIN, self._woken, self._reap)
        if self._outgoing:
            when(select.POLLOUT, 1, self._flush)
        if self._listener is not None and len(self._outgoing) < MOST_OUTGOING_BYTES:
            when(select.POLLIN, self._listener.fileno(), self._accept)
        for number, command in self._commands.items():
            if command.inlet is not None and (command.waiting or command.input_ends):
                when(select.POLLOUT, command.inlet, partial(self._feed, number, command))
            for kind, outlet in command.outlets.items():
                if self._may_send(command, kind):
                    when(select.POLLIN, outlet, partial(self._drain, number, command, kind))
        hurried = self._hurried or self._container.gone_for_s() > 0
        for descriptor, _ in poll.poll(HURRIED_LOOK_MS if hurried else LOOK_MS):
            actions[descriptor]()
        for number, command in list(self._commands.items()):
            if command.exit_code is not None:
                self._finish(number, command, command.exit_code)
            elif command.process is None and command.inlet is None and not command.outlets:
                self._forget(number, 0)

    def _may_send(self, command: Command, kind: int) -> bool:
        return command.credit[kind] > 0 and len(self._outgoing) < MOST_OUTGOING_BYTES

    # -- whoever is at stdin and stdout ------------------------------------------------------------------------------

    def _take(self) -> None:
        data = os.read(0, 65536)
        self._hung_up = not data
        self._incoming += data
        while len(self._incoming) >= HEAD.size:
            kind, number, length = HEAD.unpack_from(self._incoming)
            if len(self._incoming) < HEAD.size + length:
                return
            payload = bytes(self._incoming[HEAD.size : HEAD.size + length])
            del self._incoming[: HEAD.size + length]
            self._obey(kind, number, payload)

    def _obey(self, kind: int, number: int, payload: bytes) -> None:
        if kind == START:
            self._start(number, payload)
        elif kind == LISTEN:
            self._listen(payload)
        command = self._commands.get(number)
        if command is None:  # it has just ended
            return
        if kind == INPUT:
            self._input(number, command, payload)
        elif kind == INPUT_END:
            command.input_ends = True
        elif kind == CREDIT:
            stream, amount = AMOUNT.unpack(payload)
            command.credit[stream] += amount
        elif kind == RESIZE and command.inlet is not None:
            rows, columns = SIZE_OF_TERMINAL.unpack(payload)
            with contextlib.suppress(OSError):
                fcntl.ioctl(command.inlet, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        elif kind == KILL:
            command.kill(self._container.pid)

    def _flush(self) -> None:
        try:
            sent = os.write(1, self._outgoing[:65536])
            del self._outgoing[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._hung_up = True

    # -- commands ----------------------------------------------------------------------------------------------------

    def _start(self, number: int, payload: bytes) -> None:
        mode, *words = payload.split(b"\0")
        try:
            command = in_terminal(words) if mode == TERMINAL else with_pipes(words, mode == PIPES)
        except OSError as error:
            self._outgoing += frame(STDERR, number, str(error).encode("utf-8", "replace"))
            self._outgoing += frame(EXIT, number, CODE.pack(126))
            return
        for descriptor in [*command.outlets.values(), *([] if command.inlet is None else [command.inlet])]:
            os.set_blocking(descriptor, False)
        self._commands[number] = command

    def _input(self, number: int, command: Command, data: bytes) -> None:
        if command.inlet is None:
            self._give_credit(number, command, len(data))
        else:
            command.waiting += data

    def _feed(self, number: int, command: Command) -> None:
        if command.inlet is None:
            return
        try:
            if command.waiting:
                taken = os.write(command.inlet, command.waiting[:LARGEST_PIECE_BYTES])
                del command.waiting[:taken]
                self._give_credit(number, command, taken)
            elif os.isatty(command.inlet):
                os.write(command.inlet, END_OF_INPUT)
                command.input_ends = False
            else:
                command.close_inlet()
        except BlockingIOError:
            return
        except OSError:  # it takes no more
            self._give_credit(number, command, len(command.waiting))
            command.waiting.clear()
            command.close_inlet()

    def _give_credit(self, number: int, command: Command, amount: int) -> None:
        command.taken += amount
        if command.taken >= CREDIT_STEP_BYTES:
            self._outgoing += frame(CREDIT, number, AMOUNT.pack(INPUT, command.taken))
            command.taken = 0

    def _drain(self, number: int, command: Command, kind: int) -> bool:
        """Whether there may be more."""
        if kind not in command.outlets:
            return False
        try:
            data = os.read(command.outlets[kind], min(command.credit[kind], LARGEST_PIECE_BYTES))
        except BlockingIOError:
            return False
        except OSError:  # Linux' way to say that nobody has the terminal any more
            data = b""
        if data:
            command.credit[kind] -= len(data)
            self._outgoing += frame(kind, number, data)
            return True
        os.close(command.outlets.pop(kind))
        if command.process is None:
            self._outgoing += frame(OUTPUT_END, number)
        return False

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)
        by_pid = {
            command.process.pid: command
            for command in self._commands.values()
            if command.process and command.exit_code is None
        }
        with contextlib.suppress(ChildProcessError):
            while True:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None:
                    return
                command = by_pid.get(ended.si_pid)
                if command is not None:
                    kill(ended.si_pid, self._container.pid)  # while the number of its session is still its own
                status = os.waitpid(ended.si_pid, 0)[1]
                if command is not None and command.process is not None:
                    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
                    command.process.returncode = command.exit_code = code

    def _finish(self, number: int, command: Command, exit_code: int) -> None:
        """Nobody writes any more: what there is, is all."""
        for kind in list(command.outlets):
            while self._may_send(command, kind):
                if not self._drain(number, command, kind):
                    if kind in command.outlets:
                        os.close(command.outlets.pop(kind))
                    break
        if not command.outlets:
            self._forget(number, exit_code)

    def _forget(self, number: int, exit_code: int) -> None:
        self._commands.pop(number).close()
        self._outgoing += frame(EXIT, number, CODE.pack(exit_code))

    # -- who connects ------------------------------------------------------------------------------------------------

    def _listen(self, payload: bytes) -> None:
        try:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", PORT.unpack(payload)[0]))
            self._listener.listen(BACKLOG)
            self._listener.setblocking(False)
        except OSError as error:
            self._listener = None
            self._outgoing += frame(LISTENS, 0, str(error).encode("utf-8", "replace"))
        else:
            self._outgoing += frame(LISTENS, 0)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client = self._listener.accept()[0]
        except OSError:
            return
        if sum(number >= OURS for number in self._commands) >= MOST_CONNECTIONS:
            client.close()
            return
        client.setblocking(False)
        try:
            connection = Connection(client)
        except OSError:  # too many descriptors
            client.close()
            return
        self._last_connection += 1
        self._commands[OURS + self._last_connection] = connection
        self._outgoing += frame(CONNECTION, OURS + self._last_connection)


class Container:
    """The container's process, which the job's script has noted in the working directory."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self._start_time = b""
        self._gone_at: float | None = None

    def is_gone(self) -> bool:
        if self.pid is None:
            with contextlib.suppress(OSError, ValueError), open("process") as file:
                self.pid = int(file.readline())
                self._start_time = start_time(self.pid)
        if self.pid is None or self._gone_at is not None:
            return self._gone_at is not None
        if start_time(self.pid) != self._start_time or not self._start_time:
            self._gone_at = time.monotonic()
        return self._gone_at is not None

    def gone_for_s(self) -> float:
        return 0.0 if self._gone_at is None else time.monotonic() - self._gone_at


def start_time(pid: int) -> bytes:
    """Which of all the processes that had this number it is; empty if there is none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return b""
    return b"" if fields[0] in (b"Z", b"X") else fields[19]


def with_pipes(words: "list[bytes]", has_input: bool) -> Command:
    pipe = subprocess.PIPE
    stdin = pipe if has_input else subprocess.DEVNULL
    process = subprocess.Popen(words, stdin=stdin, stdout=pipe, stderr=pipe, start_new_session=True)
    inlet = os.dup(process.stdin.fileno()) if process.stdin else None
    assert process.stdout and process.stderr
    outlets = {STDOUT: os.dup(process.stdout.fileno()), STDERR: os.dup(process.stderr.fileno())}
    for file in (process.stdin, process.stdout, process.stderr):
        if file:
            file.close()
    return Command(process, inlet, outlets)


def in_terminal(words: "list[bytes]") -> Command:
    terminal, end = os.openpty()
    try:
        process = subprocess.Popen(
            words, stdin=end, stdout=end, stderr=end, start_new_session=True, preexec_fn=take_terminal
        )
        return Command(process, os.dup(terminal), {STDOUT: os.dup(terminal)})
    finally:
        os.close(terminal)
        os.close(end)


def take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def kill(session: int, container: "int | None") -> None:
    """Kill a session, and the descendants of its leader wherever they are, until no more of them appear.

    Those whose parents have ended are our children, or those of the first process of the container.
    """
    killed: set[int] = set()
    for _ in range(MOST_ROUNDS):
        found = members(session, [os.getpid()] if container is None else [os.getpid(), container]) - killed
        if not found:
            return
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed |= found


def members(session: int, roots: "list[int]") -> "set[int]":
    seen, found = set(roots), set()
    rest = [(root, False) for root in roots]
    while rest:
        pid, inside = rest.pop()
        for child in children(pid):
            belongs = inside or child == session or session_of(child) == session
            if belongs:
                found.add(child)
            if child not in seen:
                seen.add(child)
                rest.append((child, belongs))
    return found


def children(pid: int) -> "list[int]":
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, thread)) as file:
                found += [int(word) for word in file.read().split()]
    return found


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def adopt_orphans() -> None:
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def leave_bytes_alone() -> None:
    """Where Slurm has made stdout a terminal."""
    with contextlib.suppress(termios.error):
        mode = termios.tcgetattr(1)
        mode[1] &= ~termios.OPOST
        termios.tcsetattr(1, termios.TCSANOW, mode)


def main() -> None:
    adopt_orphans()
    leave_bytes_alone()
    os.set_blocking(1, False)
    Agent().run(sys.argv[1].encode() + b"\n")


if __name__ == "__main__":
    main()
