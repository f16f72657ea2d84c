"""Calls that change nothing are answered by containerd's own bytes, one by one."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from differential.calls import Sent
from differential.comparing import assert_none, differences_of_calls
from differential.conftest import Sides
from differential.looking import broken_calls, calls, unknown_calls
from multicri_proxy.methods import RUNTIME_SERVICE, V1, V1ALPHA2, Whose

pytestmark = pytest.mark.testbed

many = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@many
@given(data=st.data())
def test_every_call_that_only_looks_is_answered_as_without_the_proxy(sides: Sides, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(calls(sides.standing), min_size=1, max_size=8))
    assert_none(sides.runner.run(differences_of_calls(sides.direct, sides.proxied, drawn)))


@many
@given(data=st.data())
def test_broken_bytes_are_refused_or_taken_as_without_the_proxy(sides: Sides, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(broken_calls(sides.standing), min_size=1, max_size=8))
    assert_none(sides.runner.run(differences_of_calls(sides.direct, sides.proxied, drawn)))


NOT_UTF8 = b"\x0a\x07\x1a\x05\x0a\x01\xff\x12\x00"
"""A list's filter with a label that is no text. Go's protobuf takes what others refuse."""


@pytest.mark.parametrize("request_bytes", [NOT_UTF8, b"\0", b"\x0a\xff"])
@pytest.mark.parametrize("version", [V1, V1ALPHA2])
@pytest.mark.parametrize("name", [row.name for row in RUNTIME_SERVICE if row.whose is Whose.EVERY])
def test_what_we_cannot_read_is_for_containerd_to_refuse_or_to_answer(
    sides: Sides, name: str, version: str, request_bytes: bytes
) -> None:
    call = Sent(path=f"/{version}.RuntimeService/{name}", request=request_bytes)
    assert_none(sides.runner.run(differences_of_calls(sides.direct, sides.proxied, [call])))


@many
@given(drawn=st.lists(unknown_calls, min_size=1, max_size=4))
def test_a_method_that_nobody_knows_is_refused_in_containerds_own_words(sides: Sides, drawn: list[Sent]) -> None:
    assert_none(sides.runner.run(differences_of_calls(sides.direct, sides.proxied, drawn)))
