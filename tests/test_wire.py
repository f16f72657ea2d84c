"""Reading single strings out of serialized messages."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.wire import Malformed, text_at

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@given(handler=names, name=names, uid=names, annotations=st.dictionaries(names, names, max_size=3))
def test_a_string_is_read_as_protobuf_reads_it(handler: str, name: str, uid: str, annotations: dict[str, str]) -> None:
    request = cri.RunPodSandboxRequest(
        runtime_handler=handler,
        config=cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=uid, attempt=7), annotations=annotations
        ),
    ).SerializeToString()
    assert text_at(request, (2,)) == handler
    assert text_at(request, (1, 1, 1)) == name
    assert text_at(request, (1, 1, 2)) == uid
    assert text_at(request, (1, 99)) == ""


@given(first=names.filter(bool), second=names.filter(bool))
def test_the_last_value_of_a_field_wins_also_in_a_message_that_comes_in_two_parts(first: str, second: str) -> None:
    parts = [
        cri.ListContainersRequest(filter=cri.ContainerFilter(pod_sandbox_id=name)).SerializeToString()
        for name in (first, second)
    ]
    merged = b"".join(parts)
    assert text_at(merged, (1, 3)) == cri.ListContainersRequest.FromString(merged).filter.pod_sandbox_id == second


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_never_break_the_reader(message: bytes) -> None:
    with suppress(Malformed):
        assert isinstance(text_at(message, (1, 1)), str)


def test_a_field_that_claims_more_bytes_than_there_are_is_refused() -> None:
    with pytest.raises(Malformed):
        text_at(b"\x0a\x05abc", (1,))


def test_a_message_of_millions_of_fields_is_not_read_to_its_end() -> None:
    with pytest.raises(Malformed, match="more than 10000 fields"):
        text_at(b"\x10\x01" * (1 << 23), (1,))


@given(number=st.integers(1, 20), value=st.text(max_size=150))
def test_a_message_that_is_nothing_but_the_string_is_read_for_any_field_and_length(number: int, value: str) -> None:
    encoded = value.encode()
    message = _varint(number << 3 | 2) + _varint(len(encoded)) + encoded
    assert text_at(message, (number,)) == value
    assert text_at(message, (number + 1,)) == ""


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
