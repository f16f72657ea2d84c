"""A client of exec and port-forward over SPDY/3.1, written from the protocol.

It shares nothing with the server but the protocol's dictionary."""

import asyncio
import json
import ssl
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from multicri_proxy.streaming.spdy import DICTIONARY

PATIENCE_S = 120.0
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 9


async def upgraded(
    url: str, headers: Sequence[str], method: str = "POST"
) -> tuple[int, dict[str, str], asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for a change of protocol. Returns the status and headers of the answer."""
    parts = urlsplit(url)
    context = None
    if parts.scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    lines = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: Upgrade", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    answered = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), answered, reader, writer


@dataclass
class Stream:
    """read_bytes: what came, if it is kept. windows: bytes that may be sent, where the client minds windows."""

    stream_id: int
    data: bytearray = field(default_factory=bytearray)
    replied: bool = False
    ended: bool = False
    reset: int = 0
    length: int = 0


class Spdy:
    """One connection. keep: whether data is kept; checksum otherwise."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.streams: dict[int, Stream] = {}
        self.changed = asyncio.Condition()
        self.pings: list[int] = []
        self.window_updates: dict[int, int] = {}
        self.gone = False
        self.went_away = False
        self.paused = asyncio.Event()
        self.paused.set()
        self.on_data: dict[int, Any] = {}
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._next_id = 1
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, url: str, protocol: str) -> "Spdy":
        headers = ["Upgrade: SPDY/3.1", "Content-Length: 0"]
        if protocol:
            headers.append(f"X-Stream-Protocol-Version: {protocol}")
        status, answered, reader, writer = await upgraded(url, headers)
        assert status == 101, (status, answered, await reader.read())
        assert answered["upgrade"] == "spdy/3.1"
        assert answered.get("x-stream-protocol-version", "") == protocol
        return cls(reader, writer)

    async def close(self) -> None:
        self.writer.close()
        self._task.cancel()
        with suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError):
            await self._task
        with suppress(OSError):
            await self.writer.wait_closed()

    def control(self, kind: int, body: bytes, flags: int = 0) -> None:
        self.writer.write(struct.pack(">HHI", 0x8003, kind, flags << 24 | len(body)) + body)

    def header_block(self, headers: dict[str, str]) -> bytes:
        plain = struct.pack(">I", len(headers))
        for pair in headers.items():
            for text in pair:
                plain += struct.pack(">I", len(text)) + text.encode()
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    async def open(self, **headers: str) -> Stream:
        """Open a stream, and wait for the reply."""
        stream = Stream(self._next_id)
        self._next_id += 2
        self.streams[stream.stream_id] = stream
        head = struct.pack(">IIBB", stream.stream_id, 0, 0, 0)
        self.control(SYN_STREAM, head + self.header_block({name.lower(): value for name, value in headers.items()}))
        await self.until(lambda: stream.replied or stream.reset)
        return stream

    async def send(self, stream: Stream, data: bytes, *, fin: bool = False) -> None:
        self.writer.write(struct.pack(">II", stream.stream_id, fin << 24 | len(data)) + data)
        await self.writer.drain()

    async def until(self, true: Any) -> None:
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(lambda: true() or self.gone)
        assert true(), "the server has left"

    async def _read(self) -> None:
        try:
            while True:
                await self.paused.wait()
                first, second = struct.unpack(">II", await self.reader.readexactly(8))
                body = await self.reader.readexactly(second & 0xFFFFFF)
                await self._frame(first, second >> 24, body)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone = True
            async with self.changed:
                self.changed.notify_all()

    async def _frame(self, first: int, flags: int, body: bytes) -> None:
        if not first >> 31:
            stream = self.streams[first]
            stream.length += len(body)
            if callback := self.on_data.get(first):
                callback(body)
            else:
                stream.data += body
            stream.ended |= bool(flags & 1)
        else:
            assert first >> 16 == 0x8003
            kind, number = first & 0xFFFF, int.from_bytes(body[:4])
            if kind == SYN_REPLY:
                assert self._inflate.decompress(body[4:]) == bytes(4)
                self.streams[number].replied = True
            elif kind == RST_STREAM:
                self.streams[number].reset = int.from_bytes(body[4:])
            elif kind == PING:
                self.pings.append(number)
            elif kind == WINDOW_UPDATE:
                self.window_updates[number] = self.window_updates.get(number, 0) + int.from_bytes(body[4:])
            elif kind == GOAWAY:
                self.went_away = True
            else:
                raise AssertionError(f"frame of type {kind}")
        async with self.changed:
            self.changed.notify_all()


class Exec:
    """A remote command over SPDY."""

    def __init__(self, spdy: Spdy, streams: dict[str, Stream]) -> None:
        self.spdy, self.streams = spdy, streams

    @classmethod
    async def start(cls, url: str, *kinds: str, protocol: str = "v4.channel.k8s.io") -> "Exec":
        spdy = await Spdy.connect(url, protocol)
        return cls(spdy, {kind: await spdy.open(streamType=kind) for kind in ("error", *kinds)})

    async def type(self, data: bytes, *, fin: bool = False) -> None:
        await self.spdy.send(self.streams["stdin"], data, fin=fin)

    async def resize(self, columns: int, rows: int) -> None:
        await self.spdy.send(self.streams["resize"], json.dumps({"Width": columns, "Height": rows}).encode() + b"\n")

    async def until_said(self, text: bytes, kind: str = "stdout") -> None:
        await self.spdy.until(lambda: text in self.streams[kind].data)

    async def raw_status(self) -> bytes:
        await self.spdy.until(lambda: self.streams["error"].ended)
        return bytes(self.streams["error"].data)

    async def status(self) -> Any:
        return json.loads(await self.raw_status())

    async def close(self) -> None:
        await self.spdy.close()
