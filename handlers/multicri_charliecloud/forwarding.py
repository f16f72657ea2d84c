"""Ports of pods: on the node's network, or in a namespace of the pod's own."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from multicri_charliecloud import kernel
from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.streams import Connection

CONNECT_TIMEOUT_S = 10.0


@asynccontextmanager
async def connected(port: int, namespace: str) -> AsyncIterator[Connection]:
    """namespace: path of the pod's network namespace; empty for the node's. Raises Unavailable if nobody listens."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            client = await _socket_in(namespace) if namespace else socket.socket()
            try:
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
                reader, writer = await asyncio.open_connection(sock=client)
            except BaseException:
                client.close()
                raise
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"nobody listens on port {port} of the pod: {error}") from error
    try:
        yield _Port(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _socket_in(namespace: str) -> socket.socket:
    """A namespace is a thread's: this one ends with the step, and no other ever changes."""
    made: Future[socket.socket] = Future()

    def make() -> None:
        try:
            with Path(namespace).open() as file:
                kernel.setns(file.fileno(), kernel.CLONE_NEWNET)
            made.set_result(socket.socket())
        except BaseException as error:  # it is raised where it is awaited
            made.set_exception(error)

    made.set_running_or_notify_cancel()
    threading.Thread(target=make, name="socket in a pod", daemon=True).start()
    return await asyncio.wrap_future(made)


@dataclass
class _Port:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self, max_bytes: int) -> bytes:
        try:
            return await self.reader.read(max_bytes)
        except OSError as error:
            raise Unavailable(f"the pod's port: {error}") from error

    async def write(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError as error:
            raise Unavailable(f"the pod's port: {error}") from error

    async def end(self) -> None:
        self.writer.write_eof()
