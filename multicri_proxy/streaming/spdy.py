"""SPDY/3.1 frames: from bytes and to bytes. No I/O.

Source: "SPDY Protocol - Draft 3.1", The Chromium Projects.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

VERSION = 3
LONGEST_DATA_BYTES = (1 << 24) - 1
LONGEST_CONTROL_BYTES = 32 * 1024
"""A longer control frame is refused before it is kept. Data frames pass in pieces, and need no limit."""

LONGEST_HEADERS_BYTES = 16 * 1024
"""Of one header block, decompressed."""

_CONTROL = 1 << 31
_ID = (1 << 31) - 1
_FIN, _UNIDIRECTIONAL, _CLEAR = 1, 2, 1

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
    "Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 "
    "Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec "
    "00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    "application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset="
    "iso-8859-1,utf-,*,enq=0."
)


def _with_length(word: str) -> bytes:
    return struct.pack(">I", len(word)) + word.replace("_", " ").encode()


DICTIONARY = b"".join(map(_with_length, _WORDS.split())) + _TAIL.encode()
"""What both ends prime zlib with; its Adler-32 stands in the first header block of every connection."""


class ProtocolError(Exception):
    """The peer does not speak SPDY/3.1, or beyond our limits: the connection must end."""


class Reset(IntEnum):
    """Why a stream is reset."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_ALREADY_CLOSED = 9


class Leaving(IntEnum):
    """Why a connection ends."""

    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class Setting(IntEnum):
    """Settings that this side understands."""

    MAX_CONCURRENT_STREAMS = 4
    INITIAL_WINDOW_SIZE = 7


class _Type(IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


Headers = Mapping[str, str]
"""Names in lower case. A header with several values has them separated by NUL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SynStream:
    stream_id: int
    headers: Headers = field(default_factory=dict)
    associated_id: int = 0
    priority: int = 0
    fin: bool = False
    unidirectional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SynReply:
    stream_id: int
    headers: Headers = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreHeaders:
    """The frame HEADERS."""

    stream_id: int
    headers: Headers
    fin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RstStream:
    """status: one of `Reset`, or one that this side does not know."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """values: by the number of the setting. clear: forget what was persisted."""

    values: Mapping[int, int]
    clear: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """ping_id: odd if a client asks; the answer has the same."""

    ping_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GoAway:
    last_stream_id: int
    status: int = Leaving.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowUpdate:
    """stream_id: 0 for the connection. delta_bytes: how much more may be sent."""

    stream_id: int
    delta_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A data frame, or a piece of one that came in pieces: the last piece has its ``fin``."""

    stream_id: int
    data: bytes
    fin: bool = False


Frame = SynStream | SynReply | MoreHeaders | RstStream | Settings | Ping | GoAway | WindowUpdate | Data


class Encoder:
    """One direction of a connection, written. Header blocks are one zlib stream: each frame must be sent, in order."""

    def __init__(self) -> None:
        # A window of 2 KiB holds the dictionary, and costs a connection 10 KiB instead of 256.
        self._zlib = zlib.compressobj(wbits=11, memLevel=1, zdict=DICTIONARY)

    def encode(self, frame: Frame) -> bytes:  # noqa: PLR0911  (one for each kind)
        match frame:
            case Data():
                if len(frame.data) > LONGEST_DATA_BYTES:
                    raise ValueError(f"{len(frame.data)} bytes are too many for a data frame")
                return struct.pack(">II", frame.stream_id, frame.fin * _FIN << 24 | len(frame.data)) + frame.data
            case SynStream():
                flags = frame.fin * _FIN | frame.unidirectional * _UNIDIRECTIONAL
                head = struct.pack(">IIBB", frame.stream_id, frame.associated_id, frame.priority << 5, 0)
                return _control(_Type.SYN_STREAM, head + self._block(frame.headers), flags)
            case SynReply():
                head = struct.pack(">I", frame.stream_id)
                return _control(_Type.SYN_REPLY, head + self._block(frame.headers), frame.fin * _FIN)
            case MoreHeaders():
                head = struct.pack(">I", frame.stream_id)
                return _control(_Type.HEADERS, head + self._block(frame.headers), frame.fin * _FIN)
            case RstStream():
                return _control(_Type.RST_STREAM, struct.pack(">II", frame.stream_id, frame.status))
            case Settings():
                pairs = b"".join(struct.pack(">II", number, value) for number, value in frame.values.items())
                return _control(_Type.SETTINGS, struct.pack(">I", len(frame.values)) + pairs, frame.clear * _CLEAR)
            case Ping():
                return _control(_Type.PING, struct.pack(">I", frame.ping_id))
            case GoAway():
                return _control(_Type.GOAWAY, struct.pack(">II", frame.last_stream_id, frame.status))
            case WindowUpdate():
                return _control(_Type.WINDOW_UPDATE, struct.pack(">II", frame.stream_id, frame.delta_bytes))

    def _block(self, headers: Headers) -> bytes:
        parts = [struct.pack(">I", len(headers))]
        for name, value in headers.items():
            for text in (name.encode("latin-1"), value.encode("latin-1")):
                parts += (struct.pack(">I", len(text)), text)
        return self._zlib.compress(b"".join(parts)) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class Decoder:
    """One direction of a connection, read. Keeps less than one control frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)
        self._stream_id, self._left, self._fin = 0, 0, False  # of the data frame that is being read

    def decode(self, data: bytes) -> Iterator[Frame]:
        """Each frame that is complete now, and pieces of data. To be iterated to its end. Raises ProtocolError.

        Control frames of a type that SPDY/3.1 does not have are left out, as it says.
        """
        buffer = self._buffer
        buffer += data
        while True:
            if self._left:
                if not buffer:
                    return
                piece = bytes(buffer[: self._left])
                del buffer[: self._left]
                self._left -= len(piece)
                yield Data(stream_id=self._stream_id, data=piece, fin=self._fin and not self._left)
                continue
            if len(buffer) < 8:
                return
            first, second = struct.unpack_from(">II", buffer)
            flags, length = second >> 24, second & LONGEST_DATA_BYTES
            if not first & _CONTROL:
                del buffer[:8]
                self._stream_id, self._left, self._fin = _stream_id(first), length, bool(flags & _FIN)
                if not length:
                    yield Data(stream_id=first, data=b"", fin=self._fin)
                continue
            if length > LONGEST_CONTROL_BYTES:
                raise ProtocolError(f"a control frame of {length} bytes; {LONGEST_CONTROL_BYTES} are the limit")
            if (version := first >> 16 & 0x7FFF) != VERSION:
                raise ProtocolError(f"version {version}; only {VERSION} is spoken here")
            if len(buffer) < 8 + length:
                return
            body = bytes(buffer[8 : 8 + length])
            del buffer[: 8 + length]
            frame = self._control(first & 0xFFFF, flags, body)
            if frame is not None:
                yield frame

    def _control(self, number: int, flags: int, body: bytes) -> Frame | None:  # noqa: PLR0911
        fin = bool(flags & _FIN)
        match number:
            case _Type.SYN_STREAM:
                stream_id, associated_id, priority, _ = _fields(">IIBB", body)
                return SynStream(
                    stream_id=_stream_id(stream_id),
                    associated_id=associated_id & _ID,
                    priority=priority >> 5,
                    headers=self._headers(body[10:]),
                    fin=fin,
                    unidirectional=bool(flags & _UNIDIRECTIONAL),
                )
            case _Type.SYN_REPLY:
                (stream_id,) = _fields(">I", body)
                return SynReply(stream_id=_stream_id(stream_id), headers=self._headers(body[4:]), fin=fin)
            case _Type.HEADERS:
                (stream_id,) = _fields(">I", body)
                return MoreHeaders(stream_id=_stream_id(stream_id), headers=self._headers(body[4:]), fin=fin)
            case _Type.RST_STREAM:
                stream_id, status = _fields(">II", body, whole=True)
                return RstStream(stream_id=_stream_id(stream_id), status=status)
            case _Type.SETTINGS:
                return Settings(values=_settings(body), clear=bool(flags & _CLEAR))
            case _Type.PING:
                (ping_id,) = _fields(">I", body, whole=True)
                return Ping(ping_id=ping_id)
            case _Type.GOAWAY:
                last_stream_id, status = _fields(">II", body, whole=True)
                return GoAway(last_stream_id=last_stream_id & _ID, status=status)
            case _Type.WINDOW_UPDATE:
                stream_id, delta_bytes = _fields(">II", body, whole=True)
                if not delta_bytes & _ID:
                    raise ProtocolError("WINDOW_UPDATE by 0 bytes")
                return WindowUpdate(stream_id=stream_id & _ID, delta_bytes=delta_bytes & _ID)
        return None

    def _headers(self, block: bytes) -> Headers:
        """Name and value pairs, each text after its length."""
        try:
            plain = self._zlib.decompress(block, LONGEST_HEADERS_BYTES)
        except zlib.error as error:
            raise ProtocolError(f"a header block cannot be decompressed: {error}") from error
        if self._zlib.unconsumed_tail:
            raise ProtocolError(f"a header block has more than {LONGEST_HEADERS_BYTES} bytes")
        texts = _texts(plain)
        if len(texts) % 2:
            raise ProtocolError("a header has no value")
        headers = dict(zip(texts[::2], texts[1::2], strict=True))
        if len(headers) != len(texts) // 2:
            raise ProtocolError("a header comes twice")
        if any(not name or name != name.lower() for name in headers):
            raise ProtocolError("a header's name is empty, or not in lower case")
        return headers


def _control(number: _Type, body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">II", _CONTROL | VERSION << 16 | number, flags << 24 | len(body)) + body


def _fields(form: str, body: bytes, *, whole: bool = False) -> tuple[int, ...]:
    """The frame's first fields. whole: it has no more."""
    size = struct.calcsize(form)
    if len(body) < size or (whole and len(body) != size):
        raise ProtocolError(f"a control frame of {len(body)} bytes where {size} are due")
    return struct.unpack_from(form, body)


def _stream_id(number: int) -> int:
    if not number & _ID:
        raise ProtocolError("a frame for stream 0")
    return number & _ID


def _settings(body: bytes) -> Mapping[int, int]:
    (count,) = _fields(">I", body)
    if len(body) != 4 + 8 * count:
        raise ProtocolError(f"SETTINGS of {len(body)} bytes with {count} settings")
    numbers = struct.unpack(f">{2 * count}I", body[4:])
    return {number & LONGEST_DATA_BYTES: value for number, value in zip(numbers[::2], numbers[1::2], strict=True)}


def _texts(plain: bytes) -> list[str]:
    """Each text of a header block: names and values by turns."""
    if len(plain) < 4:
        raise ProtocolError("a header block has no count")
    (count,) = struct.unpack_from(">I", plain)
    texts, position = [], 4
    while position < len(plain):
        length = int.from_bytes(plain[position : position + 4])
        texts.append(plain[position + 4 : position + 4 + length].decode("latin-1"))
        position += 4 + length
    if position != len(plain) or len(texts) != 2 * count:
        raise ProtocolError(f"a header block does not hold the {count} headers that it says")
    return texts
