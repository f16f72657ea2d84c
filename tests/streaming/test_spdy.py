"""SPDY/3.1 frames: bytes that others wrote, round trips, and whatever may come instead."""

import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multicri_proxy.streaming.spdy import (
    DICTIONARY,
    LONGEST_CONTROL_BYTES,
    LONGEST_HEADERS_BYTES,
    Data,
    Decoder,
    Encoder,
    Frame,
    GoAway,
    MoreHeaders,
    Ping,
    ProtocolError,
    RstStream,
    Settings,
    SynReply,
    SynStream,
    WindowUpdate,
)

IDS = st.integers(1, 2**31 - 1)
NUMBERS = st.integers(0, 2**32 - 1)
NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30).map(str.lower)
VALUES = st.text(st.characters(max_codepoint=255), max_size=60)
HEADERS = st.dictionaries(NAMES, VALUES, max_size=8)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(
        SynStream,
        stream_id=IDS,
        headers=HEADERS,
        associated_id=IDS,
        priority=st.integers(0, 7),
        fin=st.booleans(),
        unidirectional=st.booleans(),
    ),
    st.builds(SynReply, stream_id=IDS, headers=HEADERS, fin=st.booleans()),
    st.builds(MoreHeaders, stream_id=IDS, headers=HEADERS, fin=st.booleans()),
    st.builds(RstStream, stream_id=IDS, status=NUMBERS),
    st.builds(
        Settings,
        values=st.dictionaries(st.integers(0, 2**24 - 1), NUMBERS, max_size=5),
        clear=st.booleans(),
    ),
    st.builds(Ping, ping_id=NUMBERS),
    st.builds(GoAway, last_stream_id=st.integers(0, 2**31 - 1), status=NUMBERS),
    st.builds(WindowUpdate, stream_id=st.integers(0, 2**31 - 1), delta_bytes=IDS),
    st.builds(Data, stream_id=IDS, data=st.binary(max_size=300), fin=st.booleans()),
)


def control(number: int, body: bytes, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, number, flags << 24 | len(body)) + body


def block(plain: bytes) -> bytes:
    compressor = zlib.compressobj(zdict=DICTIONARY)
    return compressor.compress(plain) + compressor.flush(zlib.Z_SYNC_FLUSH)


def pairs(*texts: bytes, count: int | None = None) -> bytes:
    number = len(texts) // 2 if count is None else count
    return struct.pack(">I", number) + b"".join(struct.pack(">I", len(text)) + text for text in texts)


def pieces_joined(frames: Sequence[Frame]) -> list[Frame]:
    """Pieces of data of one stream that follow each other as one, up to the end of the stream."""
    joined: list[Frame] = []
    for frame in frames:
        last = joined[-1] if joined else None
        if isinstance(frame, Data) and isinstance(last, Data) and last.stream_id == frame.stream_id and not last.fin:
            joined[-1] = Data(stream_id=frame.stream_id, data=last.data + frame.data, fin=frame.fin)
        else:
            joined.append(frame)
    return joined


def test_the_dictionary_is_the_protocols() -> None:
    """Its checksum, which stands in the first header block of each connection there ever was, is known."""
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


@pytest.mark.parametrize(
    ("hexadecimal", "frame"),
    [
        ("0000000301000005 68656c6c6f", Data(stream_id=3, data=b"hello", fin=True)),
        ("0000000500000000", Data(stream_id=5, data=b"")),
        ("80030003 00000008 00000005 00000005", RstStream(stream_id=5, status=5)),
        (
            "80030004 01000014 00000002 00000004 00000064 01000007 00010000",
            Settings(values={4: 100, 7: 65536}, clear=True),
        ),
        ("80030006 00000004 00000001", Ping(ping_id=1)),
        ("80030007 00000008 00000009 00000000", GoAway(last_stream_id=9)),
        ("80030009 00000008 00000001 00008000", WindowUpdate(stream_id=1, delta_bytes=32768)),
    ],
)
def test_frames_that_are_written_by_hand_are_read(hexadecimal: str, frame: Frame) -> None:
    assert list(Decoder().decode(bytes.fromhex(hexadecimal))) == [frame]


def test_a_stream_whose_headers_zlib_alone_compressed_is_read() -> None:
    body = struct.pack(">IIBB", 1, 0, 3 << 5, 0) + block(pairs(b"streamtype", b"error", b"port", b"80"))
    (frame,) = Decoder().decode(control(1, body, flags=1))
    assert frame == SynStream(stream_id=1, headers={"streamtype": "error", "port": "80"}, priority=3, fin=True)


@given(frames=st.lists(FRAMES, max_size=12), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(frames: list[Frame], sizes: list[int]) -> None:
    encoder, decoder = Encoder(), Decoder()
    wire = b"".join(encoder.encode(frame) for frame in frames)
    decoded: list[Frame] = []
    position, turn = 0, 0
    while position < len(wire):
        size = sizes[turn % len(sizes)]
        decoded += decoder.decode(wire[position : position + size])
        position, turn = position + size, turn + 1
    assert pieces_joined(decoded) == pieces_joined(frames)


@given(data=st.lists(st.binary(max_size=200), max_size=8))
@example(data=[b"\x80\x03\x00\x01\x00\x00\x00\x0a" + bytes(10)])
def test_any_bytes_are_frames_or_one_error(data: list[bytes]) -> None:
    decoder = Decoder()
    with suppress(ProtocolError):
        for piece in data:
            list(decoder.decode(piece))


@given(frames=st.lists(FRAMES, min_size=1, max_size=6), place=st.integers(0), value=st.integers(0, 255))
def test_a_byte_that_was_changed_gives_frames_or_one_error(frames: list[Frame], place: int, value: int) -> None:
    encoder = Encoder()
    wire = bytearray(b"".join(encoder.encode(frame) for frame in frames))
    wire[place % len(wire)] = value
    with suppress(ProtocolError):
        list(Decoder().decode(bytes(wire)))


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (control(6, bytes(4), version=2), "version 2"),
        (control(6, bytes(3)), "3 bytes where 4 are due"),
        (control(6, bytes(5)), "5 bytes where 4 are due"),
        (control(3, bytes(8)), "stream 0"),
        (struct.pack(">II", 0, 1) + b"x", "stream 0"),
        (control(9, struct.pack(">II", 1, 0)), "by 0 bytes"),
        (control(4, struct.pack(">III", 2, 4, 4)), "with 2 settings"),
        (control(2, struct.pack(">I", 1) + b"no zlib"), "cannot be decompressed"),
        (control(2, struct.pack(">I", 1) + block(b"")), "no count"),
        (control(2, struct.pack(">I", 1) + block(pairs(b"a", b"b", b"c"))), "does not hold the 1 headers"),
        (control(2, struct.pack(">I", 1) + block(pairs(b"a", b"b", count=7))), "does not hold the 7 headers"),
        (control(2, struct.pack(">I", 1) + block(pairs(b"a", b"b")[:-1])), "does not hold the 1 headers"),
        (control(2, struct.pack(">I", 1) + block(pairs(b"a", b"b", b"a", b"c"))), "twice"),
        (control(2, struct.pack(">I", 1) + block(pairs(b"Name", b"b"))), "lower case"),
        (control(2, struct.pack(">I", 1) + block(pairs(b"", b"b"))), "lower case"),
    ],
)
def test_what_the_protocol_does_not_allow_is_refused(wire: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        list(Decoder().decode(wire))


def test_a_control_frame_that_is_too_long_is_refused_before_it_has_come() -> None:
    head = struct.pack(">HHI", 0x8003, 1, LONGEST_CONTROL_BYTES + 1)
    with pytest.raises(ProtocolError, match=f"{LONGEST_CONTROL_BYTES} are the limit"):
        list(Decoder().decode(head))


def test_a_zip_bomb_in_a_header_block_is_refused() -> None:
    bomb = block(pairs(b"a", bytes(20_000_000)))
    assert len(bomb) < LONGEST_CONTROL_BYTES
    with pytest.raises(ProtocolError, match=f"more than {LONGEST_HEADERS_BYTES} bytes"):
        list(Decoder().decode(control(1, bytes([0, 0, 0, 1]) + bytes(6) + bomb)))


def test_a_control_frame_of_an_unknown_type_is_passed_over() -> None:
    assert list(Decoder().decode(control(77, b"?") + control(6, struct.pack(">I", 3)))) == [Ping(ping_id=3)]


def test_a_long_data_frame_comes_in_pieces_and_is_not_kept() -> None:
    decoder = Decoder()
    frames = list(decoder.decode(struct.pack(">II", 1, 1 << 24 | 2**24 - 1)))
    for _ in range(16):
        frames += decoder.decode(bytes(2**20 - 1 if len(frames) == 15 else 2**20))
    pieces = [frame for frame in frames if isinstance(frame, Data)]
    assert sum(len(piece.data) for piece in pieces) == 2**24 - 1
    assert [fin for fin, _ in groupby(piece.fin for piece in pieces)] == [False, True]
