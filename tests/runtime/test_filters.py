"""Filters, against a naive model."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from multicri_proxy.api.ids import ContainerId, PodSandboxId
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.filters import ids_that_match, select_containers, select_sandboxes
from multicri_proxy.runtime.messages import CONTAINER_STATES, SANDBOX_STATES, batches
from multicri_proxy.runtime.records import Container, ContainerState, Sandbox, SandboxState
from runtime.test_records import CONTAINER, SANDBOX

# Ids that share 12 or 14 digits, and one that stands alone.
IDS = ["a" * 64, "a" * 13 + "b" * 51, "a" * 14 + "c" * 50, "d" * 64]
texts = st.sampled_from(IDS).flatmap(
    lambda one: st.sampled_from([one, one[:11], one[:12], one[:14], one[:63], "x", ""])
)
labels = st.dictionaries(st.sampled_from("kl"), st.sampled_from("vw"))


@st.composite
def containers(draw: st.DrawFn) -> list[Container]:
    return [
        replace(
            CONTAINER,
            id=ContainerId(one),
            sandbox_id=PodSandboxId(draw(st.sampled_from(IDS))),
            labels=draw(labels),
            state=draw(st.sampled_from(ContainerState)),
        )
        for one in draw(st.lists(st.sampled_from(IDS), unique=True))
    ]


@st.composite
def sandboxes(draw: st.DrawFn) -> list[Sandbox]:
    return [
        replace(SANDBOX, id=PodSandboxId(one), labels=draw(labels), state=draw(st.sampled_from(SandboxState)))
        for one in draw(st.lists(st.sampled_from(IDS), unique=True))
    ]


def stands_for(text: str, one: str, among: set[str]) -> bool:
    if len(text) >= 64 or len(text) < 12:
        return text == one
    return [other for other in among if other.startswith(text)] == [one]


@given(containers(), texts, texts, labels, st.none() | st.sampled_from(ContainerState))
def test_containers_are_those_for_which_every_part_holds(
    records: list[Container], text: str, pod: str, selector: dict[str, str], state: ContainerState | None
) -> None:
    wanted = cri.ContainerFilter(id=text, pod_sandbox_id=pod, label_selector=selector)
    if state:
        wanted.state.state = CONTAINER_STATES[state]
    ids, pods = {str(record.id) for record in records}, {str(record.sandbox_id) for record in records}
    assert select_containers(records, wanted) == [
        record
        for record in records
        if (not text or stands_for(text, record.id, ids))
        and (not pod or stands_for(pod, record.sandbox_id, pods))
        and (state is None or record.state is state)
        and selector.items() <= record.labels.items()
    ]


@given(sandboxes(), texts, labels, st.none() | st.sampled_from(SandboxState))
def test_sandboxes_are_those_for_which_every_part_holds(
    records: list[Sandbox], text: str, selector: dict[str, str], state: SandboxState | None
) -> None:
    wanted = cri.PodSandboxFilter(id=text, label_selector=selector)
    if state:
        wanted.state.state = SANDBOX_STATES[state]
    ids = {str(record.id) for record in records}
    assert select_sandboxes(records, wanted) == [
        record
        for record in records
        if (not text or stands_for(text, record.id, ids))
        and (state is None or record.state is state)
        and selector.items() <= record.labels.items()
    ]


def test_an_id_matches_itself_and_a_beginning_may_match_several() -> None:
    assert ids_that_match("a" * 64, IDS) == ["a" * 64]
    assert ids_that_match("a" * 12, IDS) == IDS[:3]
    assert ids_that_match("a" * 11, IDS) == []
    assert ids_that_match("A" * 12, IDS) == []


@given(st.lists(st.integers(0, 1 << 19), max_size=12))
def test_batches_are_bounded_and_lose_nothing(sizes: list[int]) -> None:
    items = [cri.Container(id="x" * size) for size in sizes]
    parts = list(batches(items))
    assert [item for part in parts for item in part] == items
    assert all(part for part in parts)
    assert all(sum(item.ByteSize() for item in part) <= 1 << 20 for part in parts)
