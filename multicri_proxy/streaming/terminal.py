"""The sizes of a client's terminal, from the stream on which it tells them."""

import asyncio
import json
from collections.abc import AsyncIterator

from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.streams import Reader, TerminalSize

_LONGEST_MESSAGE = 1024
_LARGEST = (1 << 16) - 1


class TerminalSizes:
    """JSON objects, one after the other: ``{"Width": 80, "Height": 24}``. Only the last one is kept."""

    def __init__(self) -> None:
        self._latest: TerminalSize | None = None
        self._changed = asyncio.Event()
        self._over = False

    async def take_from(self, reader: Reader) -> None:
        """Until it ends, or says what is no size; then there are no more."""
        decoder, text = json.JSONDecoder(), ""
        try:
            while data := await reader.read(_LONGEST_MESSAGE):
                text = (text + data.decode("ascii", "replace")).lstrip()
                while text:
                    try:
                        message, end = decoder.raw_decode(text)
                    except (ValueError, RecursionError):
                        if len(text) > _LONGEST_MESSAGE:
                            return
                        break
                    text = text[end:].lstrip()
                    self._tell(message)
        except Unavailable:
            return
        finally:
            self._over = True
            self._changed.set()

    async def __aiter__(self) -> AsyncIterator[TerminalSize]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            size, self._latest = self._latest, None
            if size:
                yield size
            if self._over:
                return

    def _tell(self, message: object) -> None:
        if isinstance(message, dict):
            columns, rows = (message.get(name) for name in ("Width", "Height"))
            if (
                isinstance(columns, int)
                and isinstance(rows, int)
                and 0 <= min(columns, rows) <= max(columns, rows) <= _LARGEST
            ):
                self._latest = TerminalSize(columns, rows)
                self._changed.set()
