"""The comparison tells: each way in which a proxy may break its promise is seen, and one that keeps it passes."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest
from testbed import Testbed

from differential.calls import OPTIONS, Sent
from differential.comparing import Difference, assert_none, differences_of_calls, differences_of_sequence
from differential.conftest import Sides
from differential.names import name_of
from differential.native import blobs, native_calls
from differential.recording import Forger
from differential.sequences import call_of, sandbox_config
from differential.standing import LABEL
from multicri_proxy.calls import Call, CallFailed, Reply
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.remote import RemoteRuntime
from multicri_proxy.server import Server

pytestmark = pytest.mark.testbed

UNKNOWN_FIELD = b"\xfa\x3f\x01x"
"""Field 1023, a string: every client skips it."""

Forgery = Callable[[RemoteRuntime], Forger]


def with_other_details(failure: CallFailed) -> CallFailed:
    return CallFailed(failure.code, f"{failure.details}.", trailing_metadata=failure.trailing_metadata)


def with_other_code(failure: CallFailed) -> CallFailed:
    other = grpc.StatusCode.INTERNAL if failure.code is not grpc.StatusCode.INTERNAL else grpc.StatusCode.UNKNOWN
    return CallFailed(other, failure.details)


def with_more_trailing_metadata(failure: CallFailed) -> CallFailed:
    return CallFailed(failure.code, failure.details, trailing_metadata=(("x-more", "1"),))


def without_filters(call: Call) -> Call:
    return replace(call, request=b"") if "/List" in call.path else call


def without_metadata(call: Call) -> Call:
    return replace(call, metadata=())


def in_the_other_version(call: Call) -> Call:
    return replace(call, path=call.path.replace("/runtime.v1.", "/runtime.v1alpha2."))


def one_item_less(reply: Reply) -> Reply:
    containers = cri.ListContainersResponse.FromString(reply.message)
    if not containers.containers or not containers.containers[0].metadata.name:
        return reply
    del containers.containers[-1]
    return replace(reply, message=containers.SerializeToString())


FORGERIES: Mapping[str, Forgery] = {
    "a field more": partial(Forger, replied=lambda reply: replace(reply, message=reply.message + UNKNOWN_FIELD)),
    "a list's last item left out": partial(Forger, replied=one_item_less),
    "initial metadata of its own": partial(
        Forger, replied=lambda reply: replace(reply, initial_metadata=(("x-more", "1"),))
    ),
    "trailing metadata of its own": partial(
        Forger, replied=lambda reply: replace(reply, trailing_metadata=(("x-more", "1"),))
    ),
    "an error's text changed": partial(Forger, refused=with_other_details),
    "an error's code changed": partial(Forger, refused=with_other_code),
    "an error's metadata added to": partial(Forger, refused=with_more_trailing_metadata),
    "filters lost": partial(Forger, asked=without_filters),
    "metadata lost": partial(Forger, asked=without_metadata),
    "a method of the other version asked": partial(Forger, asked=in_the_other_version),
    "a stream's last message left out": partial(Forger, streamed=lambda messages: messages[:-1]),
    "a stream's messages joined": partial(Forger, streamed=lambda messages: [b"".join(messages)] if messages else []),
}


@asynccontextmanager
async def forged(sides: Sides, directory: Path, forgery: Forgery) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to containerd by way of a forwarder."""
    async with (
        RemoteRuntime("default", str(sides.containerd)) as remote,
        Server(forgery(remote), directory / "forger.sock", drain_s=0.1),
        grpc.aio.insecure_channel(f"unix:{directory}/forger.sock", options=OPTIONS) as channel,
    ):
        yield channel


async def differences_in_looking(sides: Sides, bed: Testbed, directory: Path, forgery: Forgery) -> list[Difference]:
    """What the comparison says of a forwarder, on a few calls of each kind."""
    calls = [
        call_of(cri.VersionRequest()),
        call_of(cri.ListContainersRequest(filter=cri.ContainerFilter(label_selector={LABEL: "standing"}))),
        call_of(cri.ListContainersRequest(filter=cri.ContainerFilter(id=sides.standing.running))),
        call_of(cri.ContainerStatusRequest(container_id=sides.standing.running, verbose=True)),
        call_of(cri.ContainerStatusRequest(container_id="none")),
        call_of(cri.ContainerStatsRequest(container_id=sides.standing.running)),
        Sent(path="/runtime.v1.RuntimeService/BornNextYear"),
        *(call for digest in blobs(bed) for call in native_calls(sides.standing.image, digest)),
    ]
    async with forged(sides, directory, forgery) as channel:
        return await differences_of_calls(sides.direct, channel, calls)


def test_a_forwarder_that_changes_nothing_passes(sides: Sides, bed: Testbed, tmp_path: Path) -> None:
    assert_none(sides.runner.run(differences_in_looking(sides, bed, tmp_path, Forger)))


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forwarder_that_changes_something_is_found_out(sides: Sides, bed: Testbed, tmp_path: Path, what: str) -> None:
    assert sides.runner.run(differences_in_looking(sides, bed, tmp_path, FORGERIES[what]))


def without_handler(call: Call) -> Call:
    """The pod runs, and answers every call in the same way but for one field of its status."""
    if not call.path.endswith("/RunPodSandbox"):
        return call
    request = cri.RunPodSandboxRequest.FromString(call.request)
    request.runtime_handler = ""
    return replace(call, request=request.SerializeToString())


@pytest.mark.parametrize("honest", [True, False])
def test_in_a_sequence_a_request_that_was_changed_shows_in_what_is_seen_later(
    sides: Sides, tmp_path: Path, honest: bool
) -> None:
    config = sandbox_config(0, str(tmp_path))
    sequence = [
        call_of(cri.RunPodSandboxRequest(config=config, runtime_handler="alt")),
        call_of(cri.PodSandboxStatusRequest(pod_sandbox_id=name_of("sandbox", 0))),
    ]
    forgery: Forgery = Forger if honest else partial(Forger, asked=without_handler)

    async def found() -> list[Difference]:
        async with forged(sides, tmp_path, forgery) as channel:
            return await differences_of_sequence(sides.direct, channel, sequence, sides)

    assert [difference.sent.method for difference in sides.runner.run(found())] == (
        [] if honest else ["PodSandboxStatus"]
    )
