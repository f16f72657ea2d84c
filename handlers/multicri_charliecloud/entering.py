"""One more command in a container: the helper that enters it, and what it is connected to."""

import asyncio
import fcntl
import json
import os
import pty
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from multicri_charliecloud.pipes import CHUNK_BYTES, drop, reader_of, writer_to
from multicri_charliecloud.processes import own_program
from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.streams import Reader, Streams, TerminalSize, Writer

KILL_WAIT_S = 5.0


async def run_inside(job: Mapping[str, Any], streams: Streams) -> int:
    """job: as `enter` wants it. Returns the command's exit code once all of its output is written."""
    try:
        return await (_in_terminal if streams.tty else _with_pipes)(job, streams)
    except ExceptionGroup as group:
        raise Unavailable(f"a stream of the command is cut: {group.exceptions[0]}") from group


@asynccontextmanager
async def _helper(
    job: Mapping[str, Any], stdin: int, stdout: int, stderr: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The helper, ended with everything that it began. Its job is in a file without a name: argv can be read by all."""
    descriptor = os.memfd_create("multicri-exec")
    try:
        os.write(descriptor, json.dumps(job).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        process = await asyncio.create_subprocess_exec(
            *own_program("enter"),
            str(descriptor),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(descriptor,),
            env={},
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(KILL_WAIT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()


async def _with_pipes(job: Mapping[str, Any], streams: Streams) -> int:
    """Pipes of our own: asyncio's are sockets, which a command cannot open anew as /dev/stdout."""
    files, stdin, sources = [asyncio.subprocess.DEVNULL] * 3, None, []
    async with AsyncExitStack() as stack:
        try:
            if streams.stdin:
                files[0], end = os.pipe()
                stdin = await writer_to(end)
                stack.callback(drop, stdin)
            for number, target in ((1, streams.stdout), (2, streams.stderr)):
                if target:
                    end, files[number] = os.pipe()
                    source, transport = await reader_of(end)
                    stack.callback(transport.close)
                    sources.append((source, target))
            process = await stack.enter_async_context(_helper(job, *files))
        finally:
            for file in files:
                if file != asyncio.subprocess.DEVNULL:
                    os.close(file)
        async with asyncio.TaskGroup() as group:
            feeding = None
            if streams.stdin and stdin:
                feeding = group.create_task(_feed(streams.stdin, stdin), name="exec stdin")
            for source, target in sources:
                group.create_task(_drain(source, target), name="exec output")
            code = await process.wait()
            if feeding:
                feeding.cancel()
    return code


async def _in_terminal(job: Mapping[str, Any], streams: Streams) -> int:
    master, slave = pty.openpty()
    reader, transport = await reader_of(master, "r+b")
    try:
        try:
            helper = _helper(job, slave, slave, slave)
            process = await helper.__aenter__()
        finally:
            os.close(slave)
        try:
            async with asyncio.TaskGroup() as group:
                others = [group.create_task(_sizes(streams, master), name="exec terminal size")]
                if streams.stdin:
                    others.append(group.create_task(_keys(streams.stdin, master), name="exec keys"))
                copying = group.create_task(_screen(reader, streams.stdout), name="exec screen")
                code = await process.wait()
                await copying
                for other in others:
                    other.cancel()
        finally:
            await helper.__aexit__(*sys.exc_info())
    finally:
        transport.close()
    return code


async def _feed(source: Reader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, Unavailable):
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
            await target.drain()
    target.close()


async def _drain(source: asyncio.StreamReader, target: Writer) -> None:
    while data := await source.read(CHUNK_BYTES):
        await target.write(data)


async def _screen(reader: asyncio.StreamReader, target: Writer | None) -> None:
    with suppress(OSError):  # Linux' way to say that nobody has the terminal any more
        while data := await reader.read(CHUNK_BYTES):
            if target:
                await target.write(data)


async def _sizes(streams: Streams, terminal: int) -> None:
    if streams.sizes:
        async for size in streams.sizes:
            set_size(terminal, size)


async def _keys(source: Reader, terminal: int) -> None:
    """The terminal's descriptor does not block: what finds no room waits."""
    while data := await source.read(CHUNK_BYTES):
        while data:
            try:
                data = data[os.write(terminal, data) :]
            except BlockingIOError:
                await asyncio.sleep(0.01)


def set_size(terminal: int, size: TerminalSize) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))
