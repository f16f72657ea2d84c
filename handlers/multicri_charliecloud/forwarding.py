"""Ports of pods: all of them are on the node's network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.streams import Connection

CONNECT_TIMEOUT_S = 10.0


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """Raises Unavailable if nobody listens there."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"nobody listens on port {port} of the node: {error}") from error
    try:
        yield _Port(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


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
