"""A further process in a container that runs: by the agent in its job, or else by one ``srun --overlap`` of its own.

Both go over the kept SSH connection.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import FailedPrecondition, ResourceExhausted, Unavailable
from multicri_proxy.api.streams import Reader, Streams, TerminalSize, Writer
from multicri_proxy.api.tasks import Tasks
from multicri_slurm import agent
from multicri_slurm.agents import Agents
from multicri_slurm.entering import (
    attaching_script_of,
    attaching_words,
    feeding_script_of,
    feeding_words,
    script_of,
    words_on_node,
)
from multicri_slurm.marks import Marks
from multicri_slurm.retries import within
from multicri_slurm.running import Running
from multicri_slurm.sshlib import asyncssh

if TYPE_CHECKING:
    from multicri_slurm.accounts import Account

PIECE_BYTES = 32 * 1024
MOST_COMMANDS, MOST_STEPS = 256, 64


class NoTerminal(FailedPrecondition):
    """The container was to have one, and its node has no Python."""


class Process(Protocol):
    """One on a node, wherever it was begun."""

    async def read(self, stream: OutputStream, max_bytes: int) -> bytes:
        """Some output; none at its end."""
        ...

    async def write(self, data: bytes) -> None: ...

    def end_input(self) -> None: ...

    def resize(self, size: TerminalSize) -> None: ...


class Execs:
    """At most so many at once for each account; fewer of those that hold a step of their job and a session of sshd."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._commands: Counter[Account] = Counter()
        self._steps: Counter[Account] = Counter()

    async def run(self, running: Running, command: Sequence[str], streams: Streams) -> int:
        """As CanExec.exec has it."""
        nonce, ranks = secrets.token_hex(16), running.record.allocation is None
        script = script_of(
            job_id=running.job_id,
            node=running.node,
            directory=running.record.directory,
            nonce=nonce,
            command=command,
            stdin=streams.stdin is not None,
            terminal=streams.tty,
            ranks=ranks,
        )
        words = words_on_node(nonce, command, terminal=streams.tty, ranks=ranks)
        return await self._in_job(running, words, script, nonce, streams)

    async def join(self, running: Running, streams: Streams, offset: int) -> None:
        """A client's terminal with that of the container's own process. offset: its output up to there is not wanted.

        Raises NoTerminal if it has none, FailedPrecondition if it has no stdin.
        """
        nonce = secrets.token_hex(16)
        words = attaching_words(nonce, offset=offset, stdin=streams.stdin is not None)
        script = attaching_script_of(running.job_id, running.node, running.record.directory, words)
        await self._in_job(running, words, script, nonce, streams)

    async def _in_job(self, running: Running, words: Sequence[str], script: str, nonce: str, streams: Streams) -> int:
        """By the container's agent, or else by a step. words, script: the same for either."""
        async with _one_more(self._commands, MOST_COMMANDS, running), self._agents.of(running) as link:
            if link is None:
                if running.cluster.settings.exec_by == "ssh":
                    raise self._agents.why_none(running)
                return await self._step(running, script, nonce, streams)
            mode = agent.TERMINAL if streams.tty else agent.PIPES if streams.stdin is not None else agent.NO_INPUT
            async with link.command(mode, words) as process:
                return await _run(running, process, nonce, streams)

    async def feed(self, running: Running, stdin: Reader) -> None:
        """Write to the stdin of the container's own process. Raises FailedPrecondition if it has none."""
        nonce = secrets.token_hex(16)
        words = feeding_words(nonce)
        script = feeding_script_of(running.job_id, running.node, running.record.directory, words)
        await self._in_job(running, words, script, nonce, Streams(stdin=stdin))

    async def _step(self, running: Running, script: str, nonce: str, streams: Streams) -> int:
        cluster = running.cluster
        async with (
            _one_more(self._steps, MOST_STEPS, running),
            cluster.process(script, terminal=streams.tty) as process,
        ):
            return await _run(running, _Step(process), nonce, streams)


@asynccontextmanager
async def _one_more(counter: "Counter[Account]", most: int, running: Running) -> AsyncIterator[None]:
    account = running.record.account
    if counter[account] >= most:
        raise ResourceExhausted(f"{account}: {most} commands run in its containers already")
    counter[account] += 1
    try:
        yield
    finally:
        counter[account] -= 1
        counter += Counter()  # without those that have none


class _Step:
    """A process of sshd's that has begun a step."""

    def __init__(self, process: "asyncssh.SSHClientProcess[bytes]") -> None:
        self._process = process

    async def read(self, stream: OutputStream, max_bytes: int) -> bytes:
        reader = self._process.stdout if stream is OutputStream.STDOUT else self._process.stderr
        return await reader.read(max_bytes)

    async def write(self, data: bytes) -> None:
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    def end_input(self) -> None:
        self._process.stdin.write_eof()

    def resize(self, size: TerminalSize) -> None:
        self._process.change_terminal_size(size.columns, size.rows)


async def _run(running: Running, process: Process, nonce: str, streams: Streams) -> int:
    stdout, stderr = Marks(nonce), Marks(nonce)
    begun = asyncio.Event()
    copies = (
        partial(_copy, process, OutputStream.STDOUT, stdout, streams.stdout, begun),
        partial(_copy, process, OutputStream.STDERR, stderr, streams.stderr, begun),
    )
    async with Tasks() as tasks:
        done = asyncio.gather(*(tasks.outcome("read what a command says", copy) for copy in copies))
        done.add_done_callback(lambda _: begun.set())
        limit_s = running.cluster.settings.command_timeout_s
        if not await within(begun, limit_s):
            raise Unavailable(f"{running}: Slurm did not begin the command within {limit_s:g} s")
        if streams.stdin is not None:
            tasks.start("write stdin", partial(_feed, streams.stdin, process))
        if streams.sizes is not None:
            tasks.start("tell the terminal's size", partial(_resize, streams.sizes, process))
        await done
    last = stdout if streams.tty else stderr
    return _exit_code(running, stdout.word or last.word, (stderr.noise + stdout.noise).decode("utf-8", "replace"))


async def _copy(
    process: Process, stream: OutputStream, marks: Marks, writer: Writer | None, begun: asyncio.Event
) -> None:
    while piece := await process.read(stream, PIECE_BYTES):
        own = marks.take(piece)
        if marks.begun:
            begun.set()
        if own and writer is not None:
            await writer.write(own)
    if (own := marks.end()) and writer is not None:
        await writer.write(own)


async def _feed(stdin: Reader, process: Process) -> None:
    """Until its end, or until the process takes no more. A client that is gone ends the whole elsewhere."""
    try:
        while piece := await stdin.read(PIECE_BYTES):
            await process.write(piece)
        process.end_input()
    except (Unavailable, OSError, asyncssh.Error):
        return


async def _resize(sizes: AsyncIterable[TerminalSize], process: Process) -> None:
    async for size in sizes:
        try:
            process.resize(size)
        except OSError:
            return


def _exit_code(running: Running, word: str, noise: str) -> int:
    name, _, value = word.partition("=")
    if name == "exit" and value.isdecimal():
        return int(value)
    if word == "error=gone":
        raise FailedPrecondition(f"{running}: no process of the container is there: it begins, or has just ended")
    if word == "error=terminal":
        raise NoTerminal(f"{running}: its container has no terminal")
    if word == "error=stdin":
        raise FailedPrecondition(f"{running}: its container has no stdin: it was not asked for in the pod")
    raise Unavailable(f"{running}: the command has no exit code; Slurm said: {' '.join(noise.split()) or 'nothing'}")
