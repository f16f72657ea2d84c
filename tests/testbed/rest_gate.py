"""Stands between the adapter and slurmrestd, and breaks what a test wants broken; else it passes bytes on."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Literal

NOT_FOUND = b"HTTP/1.1 404 NOT FOUND\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n"
Fault = Literal["", "lose question", "lose answer", "hold question", "hold answer"]


class Gate:
    """What becomes of the next POSTs. reached: one is lost or held up. opened: those that are held up go on.

    speaks: the one version of the interface that is passed on; empty for all.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.fault: Fault = ""
        self.speaks = ""
        self.port = 0
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._connections: set[asyncio.Future[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None, path: str = "") -> AsyncIterator["Gate"]:
        """On a port of loopback's, or on a unix socket."""
        if path:
            server = await asyncio.start_unix_server(self._connected, path)
        else:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls)
            self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.opened.set()
            server.close()
            while self._connections:
                await asyncio.wait(self._connections)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(self._pass_on(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with _closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            question = head + await reader.readexactly(int(lengths[0].split(b":")[1]))
            if self.speaks and self.speaks.encode() not in head.partition(b"\r\n")[0]:
                writer.write(NOT_FOUND)
                return
            fault = self.fault if head.startswith(b"POST") else ""
            await self._at(fault, "question")
            if fault != "lose question":
                from_rest, to_rest = await asyncio.open_connection(*self._target)
                async with _closing(to_rest):
                    to_rest.write(question)
                    answer = await from_rest.read()
                await self._at(fault, "answer")
                if fault != "lose answer":
                    writer.write(answer)
                    await writer.drain()

    async def _at(self, fault: Fault, where: str) -> None:
        if fault.endswith(where):
            self.reached.set()
            if fault.startswith("hold"):
                await self.opened.wait()


@contextlib.asynccontextmanager
async def answering(bodies: Mapping[str, bytes]) -> AsyncIterator[int]:
    """Somebody else in slurmrestd's place, on a port of loopback's: knows these paths, and no others."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with _closing(writer):
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            if (body := bodies.get(path)) is None:
                writer.write(NOT_FOUND)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: Close\r\n\r\n" % len(body) + body)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Whoever is on the other side may break off at any time."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        try:
            yield
        finally:
            writer.close()
            await writer.wait_closed()
