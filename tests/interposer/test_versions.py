"""A kubelet and a runtime that speak different versions of CRI."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from interposer.backend import Context
from interposer.conftest import Rig

V1, V1ALPHA2 = "/runtime.v1.RuntimeService/", "/runtime.v1alpha2.RuntimeService/"


def lacks(rig: Rig, prefix: str) -> list[str]:
    """Have the runtime say of a version what grpc-go says of a service that it has not. Returns what was asked."""
    asked: list[str] = []

    def behaviour(method: str) -> None:
        async def unknown(requests: AsyncIterator[bytes], context: Context) -> None:
            asked.append(method)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"unknown service {prefix.strip('/')}")

        rig.backend.behaviours[prefix + method] = unknown

    for method in ("Version", "StopContainer", "ListContainers"):
        behaviour(method)
    return asked


@pytest.mark.parametrize(("kubelet", "runtime"), [(V1ALPHA2, V1), (V1, V1ALPHA2)])
async def test_a_call_reaches_a_runtime_that_has_the_other_version_only(rig: Rig, kubelet: str, runtime: str) -> None:
    refused = lacks(rig, kubelet)
    rig.backend.answers(runtime + "Version", b"\x0a\x011")
    for _ in range(3):
        assert await rig.proxied.unary_unary(kubelet + "Version")(b"", timeout=10) == b"\x0a\x011"
    assert refused == ["Version"], "what was learnt once is not asked again"


async def test_an_error_of_the_other_version_is_passed_on_and_learnt_from(rig: Rig) -> None:
    refused = lacks(rig, V1ALPHA2)

    async def not_found(requests: AsyncIterator[bytes], context: Context) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such container")

    rig.backend.behaviours[V1 + "StopContainer"] = not_found
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError, match="no such container"):
            await rig.proxied.unary_unary(V1ALPHA2 + "StopContainer")(b"", timeout=10)
    assert refused == ["StopContainer"]


async def test_a_runtime_that_has_neither_version_answers_for_the_one_it_was_asked(rig: Rig) -> None:
    lacks(rig, V1)
    lacks(rig, V1ALPHA2)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rig.proxied.unary_unary(V1 + "Version")(b"", timeout=10)
    assert raised.value.details() == "unknown service runtime.v1.RuntimeService"


async def test_each_version_is_passed_on_as_it_is_to_a_runtime_that_has_both(rig: Rig) -> None:
    for prefix, answer in ((V1, b"\x0a\x011"), (V1ALPHA2, b"\x0a\x012")):
        rig.backend.answers(prefix + "Version", answer)
    for prefix, answer in ((V1, b"\x0a\x011"), (V1ALPHA2, b"\x0a\x012")):
        assert await rig.proxied.unary_unary(prefix + "Version")(b"", timeout=10) == answer


async def test_a_runtime_that_was_replaced_between_two_calls_is_learnt_anew(rig: Rig) -> None:
    lacks(rig, V1ALPHA2)
    rig.backend.answers(V1 + "Version", b"\x0a\x01n")
    assert await rig.proxied.unary_unary(V1ALPHA2 + "Version")(b"", timeout=10) == b"\x0a\x01n"
    lacks(rig, V1)
    rig.backend.answers(V1ALPHA2 + "Version", b"\x0a\x01o")
    for kubelet in (V1, V1ALPHA2):
        assert await rig.proxied.unary_unary(kubelet + "Version")(b"", timeout=10) == b"\x0a\x01o"
