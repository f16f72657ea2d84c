"""A client's SPDY/3.1 connection, its streams as readers and writers."""

import asyncio
from collections.abc import Mapping

from multicri_proxy.api.errors import Unavailable
from multicri_proxy.streaming.inbox import Inbox
from multicri_proxy.streaming.spdy import Headers, Leaving, ProtocolError, Reset
from multicri_proxy.streaming.spdy_connection import (
    Ended,
    Event,
    MayBeSent,
    Opened,
    Received,
    ServerConnection,
    WasReset,
)
from multicri_proxy.streaming.tunnel import Tunnel
from multicri_proxy.streaming.wire import PIECE_BYTES, Wire


class SpdyStream:
    """Both directions of one stream."""

    def __init__(self, session: "SpdySession", stream_id: int, headers: Headers) -> None:
        self.headers: Mapping[str, str] = headers
        self.inbox = Inbox(lambda number_bytes: session.connection.consumed(stream_id, number_bytes))
        self._session = session
        self._stream_id = stream_id

    async def read(self, max_bytes: int) -> bytes:
        return await self.inbox.read(max_bytes)

    async def write(self, data: bytes) -> None:
        session, rest = self._session, data
        while rest:
            async with session.wire.turn():
                if not session.connection.is_open(self._stream_id):
                    raise Unavailable("the client has closed the stream")
                size_bytes = min(PIECE_BYTES, session.connection.sendable_bytes(self._stream_id))
                if size_bytes:
                    session.connection.send(self._stream_id, rest[:size_bytes])
                    rest = rest[size_bytes:]
            if not size_bytes:
                await session.until_windows_change()

    async def end(self) -> None:
        self._session.connection.end(self._stream_id)
        self._session.forget_if_over(self._stream_id)

    def reset(self, status: Reset) -> None:
        self.inbox.discard()
        self._session.connection.reset(self._stream_id, status)
        self._session.forget_if_over(self._stream_id)


class SpdySession:
    """`run` serves the client; `opened` gives the streams that it opens."""

    def __init__(self, wire: Wire | Tunnel) -> None:
        self.wire = wire
        self.connection = ServerConnection(wire.put)
        self._streams: dict[int, SpdyStream] = {}
        self._opened: asyncio.Queue[SpdyStream] | None = asyncio.Queue()
        self._windows = asyncio.Event()

    async def run(self) -> None:
        """Until the client is gone. Raises ProtocolError, of which the client was told."""
        try:
            while data := await self.wire.receive():
                for event in self.connection.receive(data):
                    stream = self._take(event)
                    if stream:
                        await stream.inbox.until_room()
        except ProtocolError:
            self.connection.leave(Leaving.PROTOCOL_ERROR)
            raise
        finally:
            for stream in self._streams.values():
                stream.inbox.lose()

    async def opened(self) -> SpdyStream:
        """The next stream that the client has opened, and that was replied to."""
        assert self._opened is not None  # noqa: S101  (nobody asks after `accept_no_more`)
        return await self._opened.get()

    def accept_no_more(self) -> None:
        """Refuse each stream that the client opens from now on, and those that nobody took yet."""
        waiting, self._opened = self._opened, None
        while waiting and not waiting.empty():
            waiting.get_nowait().reset(Reset.REFUSED_STREAM)

    def forget_if_over(self, stream_id: int) -> None:
        if self.connection.is_over(stream_id):
            self._streams.pop(stream_id, None)

    async def until_windows_change(self) -> None:
        await self._windows.wait()

    async def leave(self) -> None:
        """Say that nothing more will come. What the client still sends is dropped."""
        for stream_id, stream in self._streams.items():
            stream.inbox.discard()
            self.connection.end(stream_id)
        self.connection.leave(Leaving.OK)
        await self.wire.finish()

    def _take(self, event: Event) -> SpdyStream | None:
        match event:
            case Opened(stream_id=stream_id):
                self._open(event)
            case Received(stream_id=stream_id, data=data):
                if stream := self._streams.get(stream_id):
                    stream.inbox.put(data)
                    return stream
            case Ended(stream_id=stream_id):
                if stream := self._streams.get(stream_id):
                    stream.inbox.end()
                    self.forget_if_over(stream_id)
            case WasReset(stream_id=stream_id):
                if stream := self._streams.pop(stream_id, None):
                    stream.inbox.lose()
                self._windows_changed()
            case MayBeSent():
                self._windows_changed()
        return None

    def _open(self, event: Opened) -> None:
        if self._opened is None:
            self.connection.reset(event.stream_id, Reset.REFUSED_STREAM)
            return
        self.connection.accept(event.stream_id)
        stream = self._streams[event.stream_id] = SpdyStream(self, event.stream_id, event.headers)
        self._opened.put_nowait(stream)

    def _windows_changed(self) -> None:
        """Wake those who wait now."""
        self._windows.set()
        self._windows.clear()
