"""CRI's log format."""

import re

from hypothesis import given
from hypothesis import strategies as st

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.runtime.logs import LONGEST_TEXT_BYTES, Entry, Splitter, consumed_bytes, entry_lines

ENTRY = re.compile(
    rb"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (?P<stream>stdout|stderr) (?P<tag>[PF]) (?P<text>.*)", re.DOTALL
)

# Bytes with many newlines, and now and then a line longer than an entry.
chunks = st.lists(
    st.binary(max_size=40)
    | st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"\0", b"\xff"]), max_size=20).map(b"".join)
    | st.integers(LONGEST_TEXT_BYTES - 2, 2 * LONGEST_TEXT_BYTES + 2).map(lambda size: b"x" * size),
    max_size=12,
)


def read_as_the_kubelet_does(log: bytes) -> dict[bytes, bytes]:
    """What ``kubectl logs`` prints of each stream: a P without its newline, an F with it."""
    printed = {b"stdout": b"", b"stderr": b""}
    assert log == b"" or log.endswith(b"\n")
    for line in log.split(b"\n")[:-1]:
        match = ENTRY.fullmatch(line)
        assert match, line
        assert len(match["text"]) <= LONGEST_TEXT_BYTES
        printed[match["stream"]] += match["text"] + (b"\n" if match["tag"] == b"F" else b"")
    return printed


@given(chunks)
def test_joined_entries_are_the_input(parts: list[bytes]) -> None:
    splitter = Splitter()
    entries = [entry for part in parts for entry in splitter.feed(part)] + splitter.end()
    text = b"".join(parts)
    assert consumed_bytes(entries) == len(text)
    log = entry_lines(entries, OutputStream.STDERR, 0)
    assert read_as_the_kubelet_does(log)[b"stderr"] == text


@given(chunks)
def test_a_splitter_keeps_no_more_than_one_entry(parts: list[bytes]) -> None:
    splitter, fed, given_out = Splitter(), 0, 0
    for part in parts:
        fed += len(part)
        given_out += consumed_bytes(splitter.feed(part))
        assert fed - given_out <= LONGEST_TEXT_BYTES


def test_a_line_of_the_longest_size_is_not_split() -> None:
    line = b"x" * LONGEST_TEXT_BYTES
    assert Splitter().feed(line + b"\n") == [Entry(line, ends_line=True)]


def test_a_longer_line_is_parts_and_then_a_full_entry() -> None:
    line = b"x" * LONGEST_TEXT_BYTES
    assert Splitter().feed(line + b"y\n") == [Entry(line, ends_line=False), Entry(b"y", ends_line=True)]


def test_what_follows_the_last_newline_is_a_part() -> None:
    splitter = Splitter()
    assert splitter.feed(b"a\nb") == [Entry(b"a", ends_line=True)]
    assert splitter.end() == [Entry(b"b", ends_line=False)]
    assert splitter.end() == []


def test_an_entry_has_a_time_in_utc_with_nanoseconds() -> None:
    line = entry_lines([Entry(b"hello", ends_line=True)], OutputStream.STDOUT, 1_475_712_029_000_000_007)
    assert line == b"2016-10-06T00:00:29.000000007Z stdout F hello\n"
