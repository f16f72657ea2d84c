"""An adapter whose containers are this machine: real processes, real terminals, real ports."""

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from runtime.doubles import Cluster, MemoryAdapter

from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.ids import ContainerId, PodSandboxId
from multicri_proxy.api.streams import Connection, Reader, Streams, TerminalSize, Writer

CHUNK_BYTES = 64 * 1024


class LocalAdapter(MemoryAdapter):
    """Everything of a MemoryAdapter, and what needs a real process."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.pids: list[int] = []
        self.attached: list[bytes] = []

    async def exec(self, container_id: ContainerId, command: Sequence[str], streams: Streams) -> int:
        run = _in_terminal if streams.tty else _with_pipes
        try:
            return await run(command, streams, self.pids)
        except ExceptionGroup as group:
            raise Unavailable(str(group.exceptions[0])) from group

    async def attach(self, container_id: ContainerId, streams: Streams) -> None:
        """Echoes lines, until one says bye."""
        assert streams.stdin and streams.stdout
        while (data := await streams.stdin.read(CHUNK_BYTES)) and data != b"bye\n":
            self.attached.append(data)
            await streams.stdout.write(b"you said " + data)

    @asynccontextmanager
    async def connect(self, sandbox_id: PodSandboxId, port: int) -> AsyncIterator[Connection]:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            raise Unavailable(f"nobody listens on {port}") from error
        try:
            yield Pod(reader, writer)
        finally:
            writer.close()


@dataclass
class Pod:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    written: bytearray = field(default_factory=bytearray)

    async def read(self, max_bytes: int) -> bytes:
        return await self.reader.read(max_bytes)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write_eof()


async def _with_pipes(command: Sequence[str], streams: Streams, pids: list[int]) -> int:
    def pipe(wanted: object) -> int:
        return asyncio.subprocess.PIPE if wanted else asyncio.subprocess.DEVNULL

    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=pipe(streams.stdin),
        stdout=pipe(streams.stdout),
        stderr=pipe(streams.stderr),
        limit=CHUNK_BYTES,
        start_new_session=True,
    )
    pids.append(process.pid)
    try:
        async with asyncio.TaskGroup() as group:
            feeding = (
                group.create_task(_feed(streams.stdin, process.stdin)) if streams.stdin and process.stdin else None
            )
            for source, target in ((process.stdout, streams.stdout), (process.stderr, streams.stderr)):
                if source and target:
                    group.create_task(_drain(source, target))
            code = await process.wait()
            if feeding:
                feeding.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for source in (process.stdout, process.stderr):
            while source and await source.read(CHUNK_BYTES):  # asyncio waits for pipes that nobody reads
                pass
        await process.wait()
    return code if code >= 0 else 128 - code


async def _feed(source: Reader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, Unavailable):
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
            await target.drain()
    target.close()


async def _drain(source: asyncio.StreamReader, target: Writer) -> None:
    while data := await source.read(CHUNK_BYTES):
        await target.write(data)


async def _in_terminal(command: Sequence[str], streams: Streams, pids: list[int]) -> int:
    master, slave = pty.openpty()
    loop = asyncio.get_running_loop()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    reader = asyncio.StreamReader()
    file = os.fdopen(master, "r+b", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own_terminal
    )
    os.close(slave)
    pids.append(process.pid)

    async def output() -> None:
        with contextlib.suppress(OSError):  # Linux' way to say that nobody has the terminal any more
            while data := await reader.read(CHUNK_BYTES):
                assert streams.stdout
                await streams.stdout.write(data)

    async def sizes() -> None:
        if streams.sizes:
            async for size in streams.sizes:
                set_size(master, size)

    async def keys() -> None:
        assert streams.stdin
        while data := await streams.stdin.read(CHUNK_BYTES):
            os.write(master, data)

    try:
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(sizes())] + ([group.create_task(keys())] if streams.stdin else [])
            copying = group.create_task(output())
            code = await process.wait()
            await copying
            for other in others:
                other.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        transport.close()
    return code if code >= 0 else 128 - code


def set_size(terminal: int, size: TerminalSize) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))
