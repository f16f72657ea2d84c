"""A client of exec and port-forward over WebSocket, written from RFC 6455; it shares nothing with the server."""

import asyncio
import base64
import hashlib
import json
import os
import struct
from contextlib import suppress
from typing import Any

from streaming.spdy_client import PATIENCE_S, upgraded

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class WebSocket:
    """One connection of channels. said: what came on each."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_base64: bool) -> None:
        self.reader, self.writer, self.is_base64 = reader, writer, is_base64
        self.said: dict[int, bytearray] = {}
        self.pongs: list[bytes] = []
        self.close_code = 0
        self.gone = False
        self.changed = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, url: str, protocol: str) -> "WebSocket":
        key = base64.b64encode(os.urandom(16)).decode()
        headers = ["Upgrade: websocket", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        if protocol:
            headers.append(f"Sec-WebSocket-Protocol: {protocol}")
        status, answered, reader, writer = await upgraded(url, headers, "GET")
        assert status == 101, (status, answered, await reader.read())
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False).digest()
        assert answered["sec-websocket-accept"] == base64.b64encode(digest).decode().lower()
        assert answered.get("sec-websocket-protocol", "") == protocol.lower()
        return cls(reader, writer, is_base64="base64" in protocol)

    async def close(self) -> None:
        self.writer.close()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        with suppress(OSError):
            await self.writer.wait_closed()

    async def frame(self, opcode: int, payload: bytes, *, fin: bool = True) -> None:
        """Masked, as a client's must be."""
        mask = os.urandom(4)
        length = len(payload)
        head = struct.pack(
            ">BB", fin << 7 | opcode, 0x80 | (length if length < 126 else 126 if length < 65536 else 127)
        )
        if length >= 126:
            head += struct.pack(">H" if length < 65536 else ">Q", length)
        repeated = (mask * (length // 4 + 1))[:length]
        masked = (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(length)
        self.writer.write(head + mask + masked)
        await self.writer.drain()

    async def send(self, channel: int, data: bytes) -> None:
        if self.is_base64:
            await self.frame(TEXT, str(channel).encode() + base64.b64encode(data))
        else:
            await self.frame(BINARY, bytes([channel]) + data)

    async def until(self, true: Any) -> None:
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(lambda: true() or self.gone)
        assert true(), f"the server has left: {self.said}"

    async def until_said(self, channel: int, text: bytes) -> None:
        await self.until(lambda: text in self.said.get(channel, b""))

    async def until_closed(self) -> None:
        await self.until(lambda: self.close_code)

    async def status(self) -> Any:
        await self.until_closed()
        return json.loads(self.said[3])

    async def _read(self) -> None:
        try:
            while True:
                first, length = await self.reader.readexactly(2)
                assert first & 0x80, "a server's message in fragments"
                if length >= 126:
                    length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8))
                payload = await self.reader.readexactly(length)
                opcode = first & 15
                if opcode == BINARY:
                    assert not self.is_base64
                    self.said.setdefault(payload[0], bytearray()).extend(payload[1:])
                elif opcode == TEXT:
                    assert self.is_base64
                    self.said.setdefault(payload[0] - ord("0"), bytearray()).extend(base64.b64decode(payload[1:]))
                elif opcode == CLOSE:
                    self.close_code = int.from_bytes(payload[:2])
                elif opcode == PONG:
                    self.pongs.append(payload)
                async with self.changed:
                    self.changed.notify_all()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone = True
            async with self.changed:
                self.changed.notify_all()
