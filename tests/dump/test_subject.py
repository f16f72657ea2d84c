"""Whose call is it, and who wants to see it."""

from dataclasses import replace

import pytest

from dump.doubles import RUNTIME, ScriptedRuntime, collecting
from dump.messages import LABELS, POD, call, create_container, run_pod_sandbox
from multicri_proxy.calls import Call
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.dumper import Dumper
from multicri_proxy.dump.entry import entry_of
from multicri_proxy.dump.record import Record
from multicri_proxy.dump.subject import Names, Subject, Wanted, subject_of
from multicri_proxy.dump.tap import Tap


def names_from(*records: Record) -> Names:
    names = Names()
    for record in records:
        names.learn(entry_of(record))
    return names


def subject(record: Record, names: Names | None = None) -> Subject:
    return subject_of(entry_of(record), names or Names())


START = call("StartContainer", cri.StartContainerRequest(container_id="c0c0"), cri.StartContainerResponse())
STOP = call("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id="5a5a"), cri.StopPodSandboxResponse())
SANDBOXES = call(
    "ListPodSandbox",
    cri.ListPodSandboxRequest(),
    cri.ListPodSandboxResponse(items=[cri.PodSandbox(id="5a5a", metadata=POD)]),
)
CONTAINERS = call(
    "ListContainers",
    cri.ListContainersRequest(),
    cri.ListContainersResponse(
        containers=[cri.Container(id="c0c0", pod_sandbox_id="5a5a", metadata=cri.ContainerMetadata(name="app"))]
    ),
)
STATUS = call(
    "ContainerStatus",
    cri.ContainerStatusRequest(container_id="c0c0"),
    cri.ContainerStatusResponse(
        status=cri.ContainerStatus(id="c0c0", metadata=cri.ContainerMetadata(name="app"), labels=LABELS)
    ),
)


@pytest.mark.parametrize(
    ("pods", "containers", "fits"),
    [
        (["web"], [], True),
        (["default/web"], ["app"], True),
        ([], ["ap"], False),
        (["other"], [], False),
        ([], ["other"], False),
    ],
)
def test_a_line_without_messages_is_about_whom_it_says(pods: list[str], containers: list[str], fits: bool) -> None:
    line = replace(START, request=None, reply=None, pod="default/web", container="app")
    assert Wanted(pods=pods, containers=containers).fits(subject(line)) is fits


def test_a_line_without_messages_and_names_has_ids_whose_beginnings_count() -> None:
    line = replace(START, request=None, reply=None, pod="5a5a" * 16, container="c0c0" * 16)
    assert Wanted(pods=["5a5a"], containers=["c0c0"]).fits(subject(line))


def test_a_request_names_its_pod_itself() -> None:
    assert str(subject(run_pod_sandbox()).pod) == "default/web"
    created = subject(create_container())
    assert (str(created.pod), created.pod.sandbox_id, created.container, created.container_id) == (
        "default/web",
        "5a5a",
        "app",
        "c0c0",
    )


@pytest.mark.parametrize(
    "before",
    [[run_pod_sandbox(), create_container()], [SANDBOXES, CONTAINERS], [CONTAINERS, SANDBOXES], [STATUS]],
    ids=["made", "listed", "listed the other way round", "asked for"],
)
def test_names_of_ids_are_learnt_from_what_goes_by(before: list[Record]) -> None:
    found = subject(START, names_from(*before))
    assert (str(found.pod), found.container) == ("default/web", "app")


def test_an_unknown_id_is_all_that_is_known() -> None:
    found = subject(START)
    assert (str(found.pod), found.container, found.container_id) == ("", "", "c0c0")
    assert str(subject(STOP).pod) == "5a5a"


def test_a_list_is_about_what_its_filter_names() -> None:
    one = call("ListContainers", cri.ListContainersRequest(filter=cri.ContainerFilter(pod_sandbox_id="5a5a")))
    assert subject(one).pod.sandbox_id == "5a5a"
    one = call("ListPodSandbox", cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(id="5a5a")))
    assert subject(one).pod.sandbox_id == "5a5a"
    one = call("ListContainerStats", cri.ListContainerStatsRequest(filter=cri.ContainerStatsFilter(id="c0c0")))
    assert subject(one).container_id == "c0c0"
    assert subject(CONTAINERS) == Subject()


def test_an_event_is_about_its_container_or_its_sandbox() -> None:
    status = cri.PodSandboxStatus(id="5a5a", metadata=POD)
    event = cri.ContainerEventResponse(container_id="c0c0", pod_sandbox_status=status)
    found = subject(call("GetContainerEvents", cri.GetEventsRequest(), event))
    assert (str(found.pod), found.container_id) == ("default/web", "c0c0")
    event = cri.ContainerEventResponse(container_id="5a5a", pod_sandbox_status=status)
    found = subject(call("GetContainerEvents", cri.GetEventsRequest(), event))
    assert (str(found.pod), found.container_id) == ("default/web", "")


@pytest.mark.parametrize("text", ["web", "default/web", "4b6a", "5a5a", "5a"])
def test_a_pod_is_meant_by_any_of_its_names(text: str) -> None:
    wanted = Wanted(pods=(text,))
    names = names_from(run_pod_sandbox(), create_container())
    assert wanted.fits(subject(STOP, names))
    assert wanted.fits(subject(START, names))


@pytest.mark.parametrize("text", ["we", "other/web", "", "/web"])
def test_a_pod_is_not_meant_by_other_names(text: str) -> None:
    assert not Wanted(pods=(text,)).fits(subject(STOP, names_from(run_pod_sandbox())))
    assert not Wanted(pods=(text,)).fits(Subject())
    assert not Wanted(containers=(text,)).fits(Subject())


def test_pod_and_container_must_both_fit() -> None:
    names = names_from(run_pod_sandbox(), create_container())
    assert Wanted(pods=("web",), containers=("app",)).fits(subject(START, names))
    assert not Wanted(pods=("web",), containers=("other",)).fits(subject(START, names))
    assert not Wanted(pods=("web",), containers=("app",)).fits(subject(STOP, names))


def test_names_are_forgotten_before_they_fill_the_memory() -> None:
    names = Names()
    for number in range(25_000):
        names.learn(entry_of(run_pod_sandbox(f"id{number}")))
    assert len(names._pods) == 20_000
    assert names.pod("id24999").name == "web"
    assert names.pod("id0").name == ""


async def test_names_are_learnt_from_methods_that_are_off() -> None:
    runtime, dumper = ScriptedRuntime(), Dumper()
    tap = Tap(runtime, dumper)
    runtime.answer(f"{RUNTIME}ListContainers", CONTAINERS.reply or b"")
    runtime.answer(f"{RUNTIME}ListPodSandbox", SANDBOXES.reply or b"")
    runtime.answer(f"{RUNTIME}StartContainer")
    async with collecting(dumper, "full:Start.*", wanted=Wanted(pods=("web",))) as collected:
        for record in (SANDBOXES, CONTAINERS, START):
            await tap.call(Call(path=record.path, request=record.request or b""))
        await tap.call(
            Call(path=START.path, request=cri.StartContainerRequest(container_id="d0d0").SerializeToString())
        )
    (shown,) = collected.records
    assert (shown.method, shown.pod, shown.container) == ("StartContainer", "default/web", "app")
