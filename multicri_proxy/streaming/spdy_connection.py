"""The server's end of an SPDY/3.1 connection: which streams there are, and what may be sent on them. No I/O.

Kubernetes' clients (spdystream) know no flow control: they neither send WINDOW_UPDATE nor wait for one, and pass over
those that they get. So a peer's windows count from the first WINDOW_UPDATE or window size on that it sends; one that
sends none is held back by TCP alone. Ours are announced to all, and kept to by those who know them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from multicri_proxy.streaming.spdy import (
    Data,
    Decoder,
    Encoder,
    Frame,
    GoAway,
    Headers,
    Leaving,
    MoreHeaders,
    Ping,
    ProtocolError,
    Reset,
    RstStream,
    Setting,
    Settings,
    SynReply,
    SynStream,
    WindowUpdate,
)

WINDOW_BYTES = 64 * 1024
"""How much each side may send before the other has said more. The protocol's, for streams and for the connection."""

MOST_STREAMS = 4096
"""Streams that may be open at once on one connection."""

_LARGEST_WINDOW_BYTES = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The client has opened a stream. It waits for our reply before it sends anything on it."""

    stream_id: int
    headers: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The client sends no more on this stream."""

    stream_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WasReset:
    """The stream is gone in both directions."""

    stream_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MayBeSent:
    """Windows have grown."""


Event = Opened | Received | Ended | WasReset | MayBeSent


@dataclass(slots=True)
class _Stream:
    """window_bytes: what we may send. consumed_bytes: what was taken since our last WINDOW_UPDATE."""

    window_bytes: int
    consumed_bytes: int = 0
    they_ended: bool = False
    we_ended: bool = False


class ServerConnection:
    """write: takes bytes for the peer, in order."""

    def __init__(self, write: Callable[[bytes], None], *, most_streams: int = MOST_STREAMS) -> None:
        self._write = write
        self._most_streams = most_streams
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._streams: dict[int, _Stream] = {}
        self._last_stream_id = 0
        self._minds_windows = False
        self._initial_window_bytes = WINDOW_BYTES
        self._window_bytes = WINDOW_BYTES
        self._received_bytes = 0

    def receive(self, data: bytes) -> Iterator[Event]:
        """What these bytes mean; to be iterated to its end. Raises ProtocolError, after which nothing may follow."""
        for frame in self._decoder.decode(data):
            yield from self._taken(frame)

    def accept(self, stream_id: int) -> None:
        self._send(SynReply(stream_id=stream_id))

    def reset(self, stream_id: int, status: Reset) -> None:
        """Both directions are over. A stream that is gone already is no error."""
        if self._streams.pop(stream_id, None):
            self._send(RstStream(stream_id=stream_id, status=status))

    def sendable_bytes(self, stream_id: int) -> int:
        """How much may be sent on this stream now."""
        if not self._minds_windows:
            return WINDOW_BYTES
        return max(0, min(self._window_bytes, self._streams[stream_id].window_bytes))

    def send(self, stream_id: int, data: bytes) -> None:
        """At most `sendable_bytes`."""
        self._window_bytes -= len(data)
        self._streams[stream_id].window_bytes -= len(data)
        self._send(Data(stream_id=stream_id, data=data))

    def end(self, stream_id: int) -> None:
        """Send no more on this stream. A stream that is gone already is no error."""
        stream = self._streams.get(stream_id)
        if stream and not stream.we_ended:
            stream.we_ended = True
            self._send(Data(stream_id=stream_id, data=b"", fin=True))
            self._forget_if_over(stream_id, stream)

    def consumed(self, stream_id: int, number_bytes: int) -> None:
        """So much of what came on this stream was taken: as much more may come."""
        stream = self._streams.get(stream_id)
        if stream and not stream.they_ended:
            stream.consumed_bytes += number_bytes
            if stream.consumed_bytes >= WINDOW_BYTES // 2:
                self._send(WindowUpdate(stream_id=stream_id, delta_bytes=stream.consumed_bytes))
                stream.consumed_bytes = 0

    def is_open(self, stream_id: int) -> bool:
        """May anything be sent on it?"""
        stream = self._streams.get(stream_id)
        return stream is not None and not stream.we_ended

    def is_over(self, stream_id: int) -> bool:
        """Will nothing more come or go on it?"""
        return stream_id not in self._streams

    def leave(self, status: Leaving) -> None:
        self._send(GoAway(last_stream_id=self._last_stream_id, status=status))

    def _send(self, frame: Frame) -> None:
        self._write(self._encoder.encode(frame))

    def _taken(self, frame: Frame) -> Iterator[Event]:
        match frame:
            case SynStream():
                yield from self._opened(frame)
            case Data():
                yield from self._received(frame)
            case MoreHeaders():
                if frame.fin:
                    yield from self._ended(frame.stream_id)
            case RstStream():
                if self._streams.pop(frame.stream_id, None):
                    yield WasReset(stream_id=frame.stream_id)
            case Settings():
                if Setting.INITIAL_WINDOW_SIZE in frame.values:
                    self._resize_windows(frame.values[Setting.INITIAL_WINDOW_SIZE])
                    yield MayBeSent()
            case WindowUpdate():
                self._widen(frame)
                yield MayBeSent()
            case Ping():
                if frame.ping_id % 2:
                    self._send(frame)
            case GoAway() | SynReply():
                pass  # it opens no more streams, which we need not know; and of us it has no stream to reply to

    def _opened(self, frame: SynStream) -> Iterator[Event]:
        stream_id = frame.stream_id
        if stream_id % 2 == 0 or stream_id <= self._last_stream_id:
            raise ProtocolError(f"stream {stream_id} is opened after {self._last_stream_id}")
        self._last_stream_id = stream_id
        if len(self._streams) >= self._most_streams or frame.unidirectional:
            self._send(RstStream(stream_id=stream_id, status=Reset.REFUSED_STREAM))
            return
        self._streams[stream_id] = _Stream(self._initial_window_bytes)
        yield Opened(stream_id=stream_id, headers=frame.headers)
        if frame.fin:
            yield from self._ended(stream_id)

    def _received(self, frame: Data) -> Iterator[Event]:
        """What comes for a stream that is gone was on its way when it went."""
        if frame.stream_id > self._last_stream_id:
            raise ProtocolError(f"data for stream {frame.stream_id}, which was never opened")
        self._received_bytes += len(frame.data)
        if self._received_bytes >= WINDOW_BYTES // 2:  # the connection's window must not make streams wait for another
            self._send(WindowUpdate(stream_id=0, delta_bytes=self._received_bytes))
            self._received_bytes = 0
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            return
        if stream.they_ended:
            self.reset(frame.stream_id, Reset.STREAM_ALREADY_CLOSED)
            yield WasReset(stream_id=frame.stream_id)
            return
        if frame.data:
            yield Received(stream_id=frame.stream_id, data=frame.data)
        if frame.fin:
            yield from self._ended(frame.stream_id)

    def _ended(self, stream_id: int) -> Iterator[Event]:
        stream = self._streams.get(stream_id)
        if stream and not stream.they_ended:
            stream.they_ended = True
            self._forget_if_over(stream_id, stream)
            yield Ended(stream_id=stream_id)

    def _forget_if_over(self, stream_id: int, stream: _Stream) -> None:
        if stream.they_ended and stream.we_ended:
            self._streams.pop(stream_id, None)

    def _resize_windows(self, size_bytes: int) -> None:
        if size_bytes > _LARGEST_WINDOW_BYTES:
            raise ProtocolError(f"a window of {size_bytes} bytes")
        self._minds_windows = True
        for stream in self._streams.values():
            stream.window_bytes += size_bytes - self._initial_window_bytes
        self._initial_window_bytes = size_bytes

    def _widen(self, frame: WindowUpdate) -> None:
        self._minds_windows = True
        if frame.stream_id == 0:
            self._window_bytes += frame.delta_bytes
            if self._window_bytes > _LARGEST_WINDOW_BYTES:
                raise ProtocolError("the connection's window is too large")
        elif stream := self._streams.get(frame.stream_id):
            stream.window_bytes += frame.delta_bytes
            if stream.window_bytes > _LARGEST_WINDOW_BYTES:
                raise ProtocolError(f"the window of stream {frame.stream_id} is too large")
