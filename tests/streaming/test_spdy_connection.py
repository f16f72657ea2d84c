"""Which streams an SPDY connection has, and what may go on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multicri_proxy.streaming.spdy import (
    Data,
    Decoder,
    Encoder,
    Frame,
    GoAway,
    MoreHeaders,
    Ping,
    ProtocolError,
    Reset,
    RstStream,
    Settings,
    SynReply,
    SynStream,
    WindowUpdate,
)
from multicri_proxy.streaming.spdy_connection import (
    WINDOW_BYTES,
    Ended,
    Event,
    MayBeSent,
    Opened,
    Received,
    ServerConnection,
    WasReset,
)
from streaming.test_spdy import FRAMES


class Peer:
    """The other end. answers: the frames that came back."""

    def __init__(self, most_streams: int = 100) -> None:
        self._encoder, self._decoder = Encoder(), Decoder()
        self.answers: list[Frame] = []
        self.connection = ServerConnection(self._read, most_streams=most_streams)

    def _read(self, data: bytes) -> None:
        self.answers += self._decoder.decode(data)

    def says(self, *frames: Frame) -> list[Event]:
        return [event for frame in frames for event in self.connection.receive(self._encoder.encode(frame))]


@pytest.fixture
def peer() -> Peer:
    return Peer()


@given(frames=st.lists(FRAMES, max_size=20), accepting=st.booleans())
def test_any_frames_are_events_or_one_error(frames: list[Frame], accepting: bool) -> None:
    peer = Peer(most_streams=3)
    try:
        for event in peer.says(*frames):
            if isinstance(event, Opened) and accepting:
                peer.connection.accept(event.stream_id)
                peer.connection.end(event.stream_id)
    except ProtocolError:
        return


def test_a_stream_lives_until_both_sides_have_ended(peer: Peer) -> None:
    assert peer.says(SynStream(stream_id=1, headers={"a": "b"})) == [Opened(stream_id=1, headers={"a": "b"})]
    peer.connection.accept(1)
    assert peer.says(Data(stream_id=1, data=b"x", fin=True)) == [Received(stream_id=1, data=b"x"), Ended(stream_id=1)]
    assert peer.connection.is_open(1)
    peer.connection.send(1, b"y")
    peer.connection.end(1)
    peer.connection.end(1)
    assert peer.connection.is_over(1)
    assert peer.answers == [
        SynReply(stream_id=1),
        Data(stream_id=1, data=b"y"),
        Data(stream_id=1, data=b"", fin=True),
    ]


def test_the_end_may_come_with_the_first_frame_or_with_headers(peer: Peer) -> None:
    assert Ended(stream_id=1) in peer.says(SynStream(stream_id=1, fin=True))
    peer.says(SynStream(stream_id=3))
    assert peer.says(MoreHeaders(stream_id=3, headers={}, fin=True)) == [Ended(stream_id=3)]


def test_what_comes_for_a_stream_that_is_gone_is_dropped(peer: Peer) -> None:
    peer.says(SynStream(stream_id=1))
    peer.connection.reset(1, Reset.CANCEL)
    peer.connection.reset(1, Reset.CANCEL)
    assert peer.says(Data(stream_id=1, data=b"late"), RstStream(stream_id=1, status=5)) == []
    assert peer.answers == [RstStream(stream_id=1, status=Reset.CANCEL)]


def test_data_after_the_end_costs_the_stream(peer: Peer) -> None:
    peer.says(SynStream(stream_id=1, fin=True))
    assert peer.says(Data(stream_id=1, data=b"more")) == [WasReset(stream_id=1)]
    assert peer.answers == [RstStream(stream_id=1, status=Reset.STREAM_ALREADY_CLOSED)]


@pytest.mark.parametrize(
    "frame",
    [SynStream(stream_id=2), SynStream(stream_id=5), SynStream(stream_id=3), Data(stream_id=7, data=b"")],
)
def test_ids_that_cannot_be_end_the_connection(peer: Peer, frame: Frame) -> None:
    peer.says(SynStream(stream_id=5))
    with pytest.raises(ProtocolError):
        peer.says(frame)


def test_more_streams_than_there_may_be_are_refused_and_room_comes_back() -> None:
    peer = Peer(most_streams=2)
    opened = peer.says(*(SynStream(stream_id=stream_id) for stream_id in (1, 3, 5)))
    assert [type(event) for event in opened] == [Opened, Opened]
    assert peer.answers == [RstStream(stream_id=5, status=Reset.REFUSED_STREAM)]
    peer.says(RstStream(stream_id=1, status=Reset.CANCEL))
    assert peer.says(SynStream(stream_id=7)) == [Opened(stream_id=7, headers={})]


def test_a_ping_of_the_peer_is_answered_and_one_that_is_ours_is_not(peer: Peer) -> None:
    assert peer.says(Ping(ping_id=7), Ping(ping_id=8), GoAway(last_stream_id=0)) == []
    assert peer.answers == [Ping(ping_id=7)]


def test_windows_count_from_the_first_word_that_the_peer_has_of_them(peer: Peer) -> None:
    peer.says(SynStream(stream_id=1))
    peer.connection.send(1, bytes(WINDOW_BYTES))
    peer.connection.send(1, bytes(WINDOW_BYTES))
    assert peer.connection.sendable_bytes(1) > 0
    assert peer.says(WindowUpdate(stream_id=1, delta_bytes=WINDOW_BYTES + 10)) == [MayBeSent()]
    assert peer.connection.sendable_bytes(1) == 0
    peer.says(WindowUpdate(stream_id=0, delta_bytes=WINDOW_BYTES + 6))
    assert peer.connection.sendable_bytes(1) == 6
    peer.says(Settings(values={7: WINDOW_BYTES - 7}))
    assert peer.connection.sendable_bytes(1) == 3


@pytest.mark.parametrize(
    "frames",
    [
        [Settings(values={7: 2**31})],
        [WindowUpdate(stream_id=0, delta_bytes=2**31 - 1)],
        [SynStream(stream_id=1), WindowUpdate(stream_id=1, delta_bytes=2**31 - 1)],
    ],
)
def test_a_window_that_is_too_large_ends_the_connection(peer: Peer, frames: list[Frame]) -> None:
    with pytest.raises(ProtocolError, match="window"):
        peer.says(*frames)


def test_the_streams_window_is_widened_by_what_was_consumed_and_the_connections_by_what_came(peer: Peer) -> None:
    peer.says(SynStream(stream_id=1), Data(stream_id=1, data=bytes(40_000)))
    assert peer.answers == [WindowUpdate(stream_id=0, delta_bytes=40_000)]
    peer.connection.consumed(1, 30_000)
    assert len(peer.answers) == 1
    peer.connection.consumed(1, 10_000)
    assert peer.answers[1:] == [WindowUpdate(stream_id=1, delta_bytes=40_000)]
