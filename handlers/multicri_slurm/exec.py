"""A further process in a container that runs: one ``srun --overlap`` in its job, over the kept SSH connection."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from multicri_proxy.api.errors import FailedPrecondition, ResourceExhausted, Unavailable
from multicri_proxy.api.streams import Reader, Streams, TerminalSize, Writer
from multicri_proxy.api.tasks import Tasks
from multicri_slurm.entering import feeding_script_of, script_of
from multicri_slurm.marks import Marks
from multicri_slurm.retries import within
from multicri_slurm.running import Running
from multicri_slurm.sshlib import asyncssh

if TYPE_CHECKING:
    from multicri_slurm.accounts import Account

PIECE_BYTES = 32 * 1024
MOST_OF_AN_ACCOUNT = 64


class Execs:
    """At most so many at once for each account: each holds a session of sshd and a step of its job."""

    def __init__(self) -> None:
        self._running: Counter[Account] = Counter()

    async def run(self, running: Running, command: Sequence[str], streams: Streams) -> int:
        """As CanExec.exec has it."""
        nonce = secrets.token_hex(16)
        script = script_of(
            job_id=running.job_id,
            node=running.node,
            directory=running.record.directory,
            nonce=nonce,
            command=command,
            stdin=streams.stdin is not None,
            terminal=streams.tty,
            ranks=running.record.allocation is None,
        )
        async with self._one_more(running):
            return await _run(running, script, nonce, streams)

    async def feed(self, running: Running, stdin: Reader) -> None:
        """Write to the stdin of the container's own process. Raises FailedPrecondition if it has none."""
        nonce = secrets.token_hex(16)
        script = feeding_script_of(
            job_id=running.job_id, node=running.node, directory=running.record.directory, nonce=nonce
        )
        async with self._one_more(running):
            await _run(running, script, nonce, Streams(stdin=stdin))

    @asynccontextmanager
    async def _one_more(self, running: Running) -> AsyncIterator[None]:
        account = running.record.account
        if self._running[account] >= MOST_OF_AN_ACCOUNT:
            raise ResourceExhausted(f"{account}: {MOST_OF_AN_ACCOUNT} commands run in its containers already")
        self._running[account] += 1
        try:
            yield
        finally:
            self._running[account] -= 1
            self._running += Counter()  # without those that have none


async def _run(running: Running, script: str, nonce: str, streams: Streams) -> int:
    async with running.cluster.process(script, terminal=streams.tty) as process, Tasks() as tasks:
        stdout, stderr = Marks(nonce), Marks(nonce)
        begun = asyncio.Event()
        done = asyncio.gather(
            tasks.outcome("read stdout", partial(_copy, process.stdout, stdout, streams.stdout, begun)),
            tasks.outcome("read stderr", partial(_copy, process.stderr, stderr, streams.stderr, begun)),
        )
        done.add_done_callback(lambda _: begun.set())
        limit_s = running.cluster.settings.command_timeout_s
        if not await within(begun, limit_s):
            raise Unavailable(f"{running}: Slurm did not begin the command within {limit_s:g} s")
        if streams.stdin is not None:
            tasks.start("write stdin", partial(_feed, streams.stdin, process.stdin))
        if streams.sizes is not None:
            tasks.start("tell the terminal's size", partial(_resize, streams.sizes, process))
        await done
        last = stdout if streams.tty else stderr
        return _exit_code(running, stdout.word or last.word, (stderr.noise + stdout.noise).decode("utf-8", "replace"))


async def _copy(reader: "asyncssh.SSHReader[bytes]", marks: Marks, writer: Writer | None, begun: asyncio.Event) -> None:
    while piece := await reader.read(PIECE_BYTES):
        own = marks.take(piece)
        if marks.begun:
            begun.set()
        if own and writer is not None:
            await writer.write(own)
    if (own := marks.end()) and writer is not None:
        await writer.write(own)


async def _feed(stdin: Reader, writer: "asyncssh.SSHWriter[bytes]") -> None:
    """Until its end, or until the process takes no more. A client that is gone ends the whole elsewhere."""
    try:
        while piece := await stdin.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
    except (Unavailable, OSError, asyncssh.Error):
        return


async def _resize(sizes: AsyncIterable[TerminalSize], process: "asyncssh.SSHClientProcess[bytes]") -> None:
    async for size in sizes:
        try:
            process.change_terminal_size(size.columns, size.rows)
        except OSError:
            return


def _exit_code(running: Running, word: str, noise: str) -> int:
    name, _, value = word.partition("=")
    if name == "exit" and value.isdecimal():
        return int(value)
    if word == "error=gone":
        raise FailedPrecondition(f"{running}: no process of the container is there: it begins, or has just ended")
    if word == "error=stdin":
        raise FailedPrecondition(f"{running}: its container has no stdin: it was not asked for in the pod")
    raise Unavailable(f"{running}: the command has no exit code; Slurm said: {' '.join(noise.split()) or 'nothing'}")
