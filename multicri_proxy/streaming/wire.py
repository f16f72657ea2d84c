"""A client's connection as bytes: bounded in both directions, and never idle for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from multicri_proxy.api.errors import Unavailable

PIECE_BYTES = 32 * 1024
"""Of a connection's bytes that are read, and of a stream's that are sent, at a time."""

_MOST_UNSENT_BYTES = 256 * 1024
"""Answers to pings and the like that may wait for a client that does not read."""


class Wire:
    """early: what came along with the request, before the protocol was changed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes = b"") -> None:
        self._reader = reader
        self._writer = writer
        self._early = early
        self._writing = asyncio.Lock()
        self._used_at_s = _now_s()

    async def receive(self) -> bytes:
        """Some bytes; none when the client is gone."""
        if self._writer.transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            await self._drained()
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            data = await self._reader.read(PIECE_BYTES)
        except OSError:
            return b""
        self._used_at_s = _now_s()
        return data

    def put(self, data: bytes) -> None:
        """Send a few bytes without waiting."""
        if not self._writer.is_closing():
            self._writer.write(data)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until what others sent is nearly gone: inside, one piece may be put. Raises Unavailable."""
        async with self._writing:
            await self._drained()
            if self._writer.is_closing():
                raise Unavailable("the client is gone")
            self._used_at_s = _now_s()
            yield

    async def finish(self) -> None:
        """Send all that is left, however slowly it is read, then the end, where each direction has its own."""
        self._writer.transport.set_write_buffer_limits(high=0)
        async with self.turn():
            if self._writer.can_write_eof():
                self._writer.write_eof()

    async def until_idle(self, idle_s: float) -> None:
        """Return when nothing was sent or received for so long."""
        while (left_s := self._used_at_s + idle_s - _now_s()) > 0:  # noqa: ASYNC110  (an event for each byte is dear)
            await asyncio.sleep(left_s)

    async def _drained(self) -> None:
        try:
            await self._writer.drain()
        except OSError as error:
            raise Unavailable("the client is gone") from error


def _now_s() -> float:
    return asyncio.get_running_loop().time()
