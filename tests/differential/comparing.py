"""Makes the same calls directly and through a proxy, and says where the answers differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import grpc
import grpc.aio

from differential.calls import Seen, Sent, see
from differential.forms import exact, normal
from differential.names import Names
from multicri_proxy.cri.v1 import runtime_pb2 as cri

Run = tuple[list[Seen], Names]
"""A sequence's answers, and the names of what it has made."""


class Surroundings(Protocol):
    """What a sequence changes."""

    async def settle(self, sent: Sent) -> None:
        """Wait until what this call has set going is over."""

    async def clean(self) -> None:
        """Undo what the sequence has done, so that the same calls can be made again."""


_OUR_HANDLER = cri.StatusResponse(runtime_handlers=[cri.RuntimeHandler(name="multicri")]).SerializeToString()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A call with two answers."""

    sent: Sent
    direct: object
    proxied: object

    def __str__(self) -> str:
        return f"{self.sent}\n  directly:  {self.direct}\n  by proxy:  {self.proxied}"


def assert_none(differences: Iterable[Difference]) -> None:
    found = list(differences)
    assert not found, "\n".join(map(str, found))


def promised(sent: Sent, direct: Seen) -> Seen:
    """What is to be seen through the proxy: the same, but that Status names our handler beside the runtime's own."""
    if sent.method == "Status" and direct.code is grpc.StatusCode.OK:
        return replace(direct, messages=tuple(message + _OUR_HANDLER for message in direct.messages))
    return direct


async def differences_of_calls(
    direct: grpc.aio.Channel, proxied: grpc.aio.Channel, calls: Iterable[Sent]
) -> list[Difference]:
    """Compare calls that change nothing: each directly, by proxy, and directly again.

    What both direct answers have in common, the one in between has to have exactly. Where they differ, as stats do, it
    is compared in its normal form.
    """
    differences = []
    for sent in calls:
        before, between, after = await see(direct, sent), await see(proxied, sent), await see(direct, sent)
        before, after = promised(sent, before), promised(sent, after)
        if exact(sent, before) == exact(sent, after):
            forms = (exact(sent, before), exact(sent, between))
        else:
            forms = (normal(sent, before, Names()), normal(sent, between, Names()))
        if forms[0] != forms[1]:
            differences.append(Difference(sent=sent, direct=forms[0], proxied=forms[1]))
    return differences


async def run(channel: grpc.aio.Channel, calls: Iterable[Sent], surroundings: Surroundings) -> Run:
    """Make the calls of a sequence, each with the ids that this run's runtime has made up so far."""
    names = Names()
    answers = []
    try:
        for sent in calls:
            seen = await see(channel, names.to_ids(sent))
            names.learn(sent, seen)
            answers.append(seen)
            await surroundings.settle(names.to_ids(sent))
    finally:
        await surroundings.clean()
    return answers, names


async def differences_of_sequence(
    direct: grpc.aio.Channel, proxied: grpc.aio.Channel, calls: Sequence[Sent], surroundings: Surroundings
) -> list[Difference]:
    """Make a whole sequence directly, then by proxy, and compare the answers in their normal forms."""
    direct_answers, direct_names = await run(direct, calls, surroundings)
    proxied_answers, proxied_names = await run(proxied, calls, surroundings)
    differences = []
    for sent, one, other in zip(calls, direct_answers, proxied_answers, strict=True):
        forms = (normal(sent, promised(sent, one), direct_names), normal(sent, other, proxied_names))
        if forms[0] != forms[1]:
            differences.append(Difference(sent=sent, direct=forms[0], proxied=forms[1]))
    return differences
