"""Rows of the ledger, and transitions."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from multicri_proxy.api.adapter import Phase, Report
from multicri_proxy.api.ids import ContainerId, ImageId, PodSandboxId
from multicri_proxy.runtime.records import (
    Container,
    ContainerState,
    Sandbox,
    SandboxState,
    container_ended_by_us,
    container_exited,
    container_started,
    sandbox_stopped,
)

CONTAINER = Container(
    id=ContainerId("c" * 64),
    sandbox_id=PodSandboxId("d" * 64),
    name="main",
    attempt=2,
    labels={"a": "b"},
    annotations={},
    image_name="multicri/docker-repository.perl:5",
    image_id=ImageId("sha256:" + "e" * 64),
    mounts=(b"\x0a\xff\x00", b""),
    log_path="main/2.log",
    config_digest="0" * 64,
    created_at_ns=1000,
)
SANDBOX = Sandbox(
    id=PodSandboxId("d" * 64),
    name="pod",
    namespace="default",
    uid="uid",
    attempt=0,
    labels={},
    annotations={"k": "ü\0"},
    runtime_handler="multicri",
    log_directory="/var/log/pods/x",
    namespace_options=b"\x08\x02\xff",
    ip="192.0.2.1",
    created_at_ns=1,
)

times_ns = st.integers(-10, 5000)
reports = st.builds(
    Report,
    container_id=st.just(CONTAINER.id),
    phase=st.sampled_from(Phase),
    started_at_ns=st.none() | times_ns,
    finished_at_ns=st.none() | times_ns,
    exit_code=st.integers(0, 255),
    reason=st.sampled_from(["", "OOMKilled"]),
)


def test_a_stopped_sandbox_is_not_ready() -> None:
    assert sandbox_stopped(SANDBOX).state is SandboxState.NOTREADY
    assert sandbox_stopped(sandbox_stopped(SANDBOX)) == sandbox_stopped(SANDBOX)


def test_the_begin_of_a_queued_job_moves_the_time_of_start() -> None:
    submitted = container_started(CONTAINER, now_ns=2000)
    assert submitted.started_at_ns == 2000
    assert container_started(submitted, now_ns=2500) == submitted
    assert container_started(submitted, now_ns=3500, started_at_ns=3000).started_at_ns == 3000


def test_a_clock_ahead_of_ours_does_not_start_in_the_future() -> None:
    assert container_started(CONTAINER, now_ns=2000, started_at_ns=9000).started_at_ns == 2000


@given(st.lists(st.tuples(reports, st.integers(0, 5000)), max_size=8))
def test_states_never_go_backwards_and_times_are_in_order(steps: list[tuple[Report, int]]) -> None:
    order = [ContainerState.CREATED, ContainerState.RUNNING, ContainerState.EXITED]
    container = CONTAINER
    for report, now_ns in steps:
        if report.phase is Phase.EXITED:
            after = container_exited(container, report, now_ns=now_ns)
        else:
            after = container_started(container, now_ns=now_ns, started_at_ns=report.started_at_ns)
        assert order.index(after.state) >= order.index(container.state)
        if container.state is ContainerState.EXITED:
            assert after == container
        if after.state is not ContainerState.CREATED:
            assert after.started_at_ns >= after.created_at_ns > 0
        if after.state is ContainerState.EXITED:
            assert after.finished_at_ns >= after.started_at_ns
            assert after.reason
        container = after


@given(st.integers(0, 5000))
def test_what_we_end_ourselves_has_times_in_order(now_ns: int) -> None:
    for container in (CONTAINER, replace(CONTAINER, state=ContainerState.RUNNING, started_at_ns=3000)):
        ended = container_ended_by_us(container, now_ns=now_ns, exit_code=128, reason="NeverStarted", message="")
        assert ended.finished_at_ns >= ended.started_at_ns >= ended.created_at_ns > 0
        assert ended.exit_code == 128
