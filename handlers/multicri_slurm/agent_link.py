"""The proxy's side of an agent in a container's job: each command that it runs, with streams of its own.

Who else has the account in the cluster may speak in the agent's place: what comes from there is checked.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import FailedPrecondition, MulticriError, Unavailable
from multicri_proxy.api.streams import TerminalSize
from multicri_slurm import agent
from multicri_slurm.marks import LONGEST_NOISE_BYTES, Marks
from multicri_slurm.retries import within
from multicri_slurm.sshlib import asyncssh

if TYPE_CHECKING:
    Process = asyncssh.SSHClientProcess[bytes]

KILL_WAIT_S = 10.0
KNOWN = frozenset(
    {agent.CREDIT, agent.STDOUT, agent.STDERR, agent.EXIT, agent.LISTENS, agent.CONNECTION, agent.OUTPUT_END}
)
KINDS = {OutputStream.STDOUT: agent.STDOUT, OutputStream.STDERR: agent.STDERR}


class Frames:
    """Finds the frames in what comes. Pure."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def take(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Kind, number and payload of each that is whole by now. Raises ValueError for what no agent says."""
        self._rest += data
        found = []
        while len(self._rest) >= agent.HEAD.size:
            kind, number, length = agent.HEAD.unpack_from(self._rest)
            if kind not in KNOWN:
                raise ValueError(f"a frame of kind {kind}")
            if length > agent.LARGEST_PIECE_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            if len(self._rest) < agent.HEAD.size + length:
                break
            found.append((kind, number, bytes(self._rest[agent.HEAD.size : agent.HEAD.size + length])))
            del self._rest[: agent.HEAD.size + length]
        return found


class Link:
    """An agent, from its greeting on. name: of the job, for errors."""

    def __init__(self, name: str, process: "Process", nonce: str) -> None:
        self._name = name
        self._process = process
        self._marks = Marks(nonce)
        self._frames = Frames()
        self._first = b""
        self._noise = b""
        self._noted = asyncio.Event()
        self._commands: dict[int, Command] = {}
        self._last_number = 0
        self._lost: MulticriError | None = None
        self._listens: asyncio.Future[str] | None = None
        self._greet: Callable[[Command], None] | None = None
        self.over = asyncio.Event()

    async def begin(self) -> None:
        """Wait for its greeting. Raises Unavailable with what was said instead, FailedPrecondition without Python."""
        while not self._marks.begun:
            piece = await self._process.stdout.read(agent.LARGEST_PIECE_BYTES)
            if not piece:
                self._marks.end()
                await self._noted.wait()
                said = " ".join((self._noise + self._marks.noise).decode("utf-8", "replace").split())
                if self._marks.word == "error=python":
                    raise FailedPrecondition(f"{self._name}: its node has no Python 3.6 or newer, which an agent needs")
                raise Unavailable(f"{self._name}: no agent begins there: {said or 'nothing was said'}")
            self._first += self._marks.take(piece)
        self._first += self._marks.end()

    async def note(self) -> None:
        """Keep the last words of Slurm and of the agent's defects, for errors."""
        with suppress(OSError, asyncssh.Error):
            while piece := await self._process.stderr.read(agent.LARGEST_PIECE_BYTES):
                self._noise = (self._noise + piece)[-LONGEST_NOISE_BYTES:]
        self._noted.set()

    async def run(self) -> None:
        """Until the agent has ended, or says what none would."""
        try:
            self._obey(self._first)
            while not self.over.is_set() and (piece := await self._process.stdout.read(agent.LARGEST_PIECE_BYTES)):
                self._obey(piece)
            self.end(Unavailable(f"{self._name}: its agent has ended, and the command with it{self._last_words()}"))
        except (OSError, asyncssh.Error) as error:
            self.end(Unavailable(f"{self._name}: the connection is lost: {error}"))
        except (ValueError, struct.error) as error:
            self.end(Unavailable(f"{self._name}: its agent makes no sense: {error}"))

    def _last_words(self) -> str:
        words = " ".join(self._noise.decode("utf-8", "replace").split())
        return f"; Slurm said: {words}" if words else ""

    def is_over(self) -> bool:
        return self.over.is_set() or self._process.stdin.is_closing()

    def end(self, error: MulticriError) -> None:
        """Use it no more. error: for the commands that it has."""
        self._lost = self._lost or error
        self.over.set()
        if self._listens is not None and not self._listens.done():
            self._listens.set_exception(self._lost)
        for command in self._commands.values():
            command.lose(self._lost)

    @asynccontextmanager
    async def command(self, mode: bytes, words: Sequence[str]) -> AsyncIterator["Command"]:
        """Run one; kill it with all that it began when the block is left."""
        if self._lost is not None:
            raise self._lost
        self._last_number += 1
        number, command = self._last_number, Command(self, self._last_number)
        payload = b"\0".join([mode, *(word.encode("utf-8", "surrogateescape") for word in words)])
        self._commands[number] = command
        try:
            self.send(agent.START, number, payload)
            yield command
        finally:
            if not command.over.is_set():
                command.abandon()
                self.send(agent.KILL, number)
                if not await within(command.over, KILL_WAIT_S):
                    self.end(Unavailable(f"{self._name}: a command there cannot be killed"))
            del self._commands[number]

    async def listen(self, port: int, greet: "Callable[[Command], None]") -> None:
        """On the node's loopback. greet: gets each connection, which is to be served under `serving`.

        Raises Unavailable with what the node says.
        """
        self._listens, self._greet = asyncio.get_running_loop().create_future(), greet
        self.send(agent.LISTEN, 0, agent.PORT.pack(port))
        if words := await self._listens:
            raise Unavailable(f"{self._name}: port {port} of its node's loopback: {words}")

    @asynccontextmanager
    async def serving(self, connection: "Command") -> AsyncIterator[None]:
        """Close it when the block is left."""
        try:
            yield
        finally:
            if not connection.over.is_set():
                connection.abandon()
                self.send(agent.KILL, connection.number)
            self._commands.pop(connection.number, None)

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        if self._lost is None:
            try:
                self._process.stdin.write(agent.frame(kind, number, payload))
            except OSError as error:
                self.end(Unavailable(f"{self._name}: the connection is lost: {error}"))

    def _obey(self, data: bytes) -> None:
        for kind, number, payload in self._frames.take(data):
            if kind == agent.LISTENS and self._listens is not None and not self._listens.done():
                self._listens.set_result(payload.decode("utf-8", "replace"))
            elif kind == agent.CONNECTION:
                self._connected(number)
            elif (command := self._commands.get(number)) is not None:
                command.obey(kind, payload)

    def _connected(self, number: int) -> None:
        if self._greet is None or number < agent.OURS or number in self._commands:
            raise ValueError("a connection that cannot be")
        if sum(known >= agent.OURS for known in self._commands) >= agent.MOST_CONNECTIONS:
            raise ValueError("more connections than there may be")
        self._commands[number] = Command(self, number)
        self._greet(self._commands[number])


class Command:
    """One that an agent runs; or somebody who has connected to it, and whose words are STDOUT.

    over: it has ended, with all its output here, or it is lost.
    """

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self.number = number
        self._outputs = {kind: _Output() for kind in KINDS.values()}
        self._input_credit = agent.WINDOW_BYTES
        self._granted = asyncio.Event()
        self._abandoned = self._output_ended = False
        self._error: MulticriError | None = None
        self.over = asyncio.Event()

    async def read(self, stream: OutputStream, max_bytes: int) -> bytes:
        """Some output; none at its end. Raises Unavailable if the agent is lost."""
        kind = KINDS[stream]
        output = self._outputs[kind]
        while not output.data and not self._output_ended and not self.over.is_set():
            output.arrived.clear()
            await output.arrived.wait()
        if not output.data and self._error is not None:
            raise self._error
        piece = bytes(output.data[:max_bytes])
        del output.data[:max_bytes]
        self._give_credit(kind, len(piece))
        return piece

    async def write(self, data: bytes) -> None:
        """To its stdin, as it takes it. Raises Unavailable once it has ended."""
        while data:
            while not self._input_credit and not self.over.is_set():
                self._granted.clear()
                await self._granted.wait()
            if self.over.is_set():
                raise self._error or Unavailable("the command has ended")
            piece = data[: min(self._input_credit, agent.LARGEST_PIECE_BYTES)]
            self._input_credit -= len(piece)
            self._link.send(agent.INPUT, self.number, piece)
            data = data[len(piece) :]

    def end_input(self) -> None:
        self._link.send(agent.INPUT_END, self.number)

    def resize(self, size: TerminalSize) -> None:
        rows, columns = (min(max(number, 0), 0xFFFF) for number in (size.rows, size.columns))
        self._link.send(agent.RESIZE, self.number, agent.SIZE_OF_TERMINAL.pack(rows, columns))

    def obey(self, kind: int, payload: bytes) -> None:
        """What the agent says of it. Raises ValueError or struct.error for what none would say."""
        if kind == agent.EXIT:
            self._end()
        elif kind == agent.CREDIT:
            _, amount = agent.AMOUNT.unpack(payload)
            self._input_credit = min(self._input_credit + amount, agent.WINDOW_BYTES)
            self._granted.set()
        elif kind == agent.OUTPUT_END:
            self._output_ended = True
            self._wake()
        elif self._abandoned:
            self._give_credit(kind, len(payload))
        else:
            output = self._outputs[kind]
            if len(output.data) + len(payload) > agent.WINDOW_BYTES:
                raise ValueError("more than it has credit for")
            output.data += payload
            output.arrived.set()

    def abandon(self) -> None:
        """Nobody reads what it writes."""
        self._abandoned = True
        for kind, output in self._outputs.items():
            self._give_credit(kind, len(output.data))
            output.data.clear()

    def lose(self, error: MulticriError) -> None:
        if not self.over.is_set():
            self._error = error
            self._end()

    def _give_credit(self, kind: int, amount: int) -> None:
        output = self._outputs[kind]
        output.read += amount
        if output.read >= agent.CREDIT_STEP_BYTES and not self.over.is_set():
            self._link.send(agent.CREDIT, self.number, agent.AMOUNT.pack(kind, output.read))
            output.read = 0

    def _end(self) -> None:
        self.over.set()
        self._granted.set()
        self._wake()

    def _wake(self) -> None:
        for output in self._outputs.values():
            output.arrived.set()


class _Output:
    """What has come and was not read yet. read: how much was, since there was credit for it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.read = 0
        self.arrived = asyncio.Event()
