"""What has come on one stream, and nobody has taken yet."""

import asyncio
from collections.abc import Callable

from multicri_proxy.api.errors import Unavailable

FULL_BYTES = 64 * 1024


class Inbox:
    """A bounded buffer: whoever fills it waits for room after each piece, so that its sender is held back.

    consumed: is told how many bytes were taken.
    """

    def __init__(self, consumed: Callable[[int], None] = lambda _: None) -> None:
        self._consumed = consumed
        self._buffer = bytearray()
        self._changed = asyncio.Event()
        self._ended = False
        self._lost = False
        self._discarding = False

    async def read(self, max_bytes: int) -> bytes:
        """Some bytes; none at the end. Raises Unavailable if the rest is lost."""
        while not self._buffer and not self._ended:
            if self._lost:
                raise Unavailable("the client is gone")
            await self._change()
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        if data:
            self._changed.set()
            self._consumed(len(data))
        return data

    def put(self, data: bytes) -> None:
        if self._discarding:
            self._consumed(len(data))
        else:
            self._buffer += data
            self._changed.set()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._changed.set()

    def lose(self) -> None:
        """What would have come is lost, if its end has not come."""
        self._lost = True
        self._changed.set()

    def discard(self) -> None:
        """Nobody will read any more: what comes is dropped."""
        self._discarding = True
        self._buffer.clear()
        self._changed.set()

    async def until_room(self) -> None:
        while len(self._buffer) >= FULL_BYTES and not self._discarding:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
