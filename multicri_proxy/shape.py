"""Tells a unary request from a stream of them, for methods that nobody here knows.

grpc.aio's client loses the status of a stream that the runtime refuses before it has read the first message: sending
that then fails, and ends the call with an INTERNAL of its own. A single request travels in one piece with its end and
loses nothing, so a client that ends with its first message, as unary ones do, is forwarded as that.
"""

import asyncio
from collections.abc import AsyncIterator

_WINDOW_S = 0.01
"""A unary client sends its end with its message: this is how long one that comes later may still count."""


class Requests:
    """A client's messages. `single` first, then, if that was None, iterate."""

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        self._messages = messages
        self._ahead: list[asyncio.Future[bytes | None]] = []

    async def single(self) -> bytes | None:
        """The only message of a client that ended with it at once; None for every other client."""
        for _ in range(2):
            self._ahead.append(asyncio.ensure_future(anext(self._messages, None)))
            try:
                await asyncio.wait({self._ahead[-1]}, timeout=_WINDOW_S)
            except asyncio.CancelledError:
                self.cancel()
                raise
            if not self._ahead[-1].done() or self._ahead[0].result() is None:
                return None
        return self._ahead[0].result() if self._ahead[1].result() is None else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for ahead in self._ahead:
                message = await ahead
                if message is None:
                    return
                yield message
            async for message in self._messages:
                yield message
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Let go of what is being waited for."""
        for ahead in self._ahead:
            ahead.cancel()
