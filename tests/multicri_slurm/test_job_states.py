"""What others do to our jobs in the real cluster, and what a container's report says of it."""

import secrets

import pytest
from slurm_bench import BOTH_WAYS, Bench, eventually, everything

from multicri_proxy.api.adapter import Adapter, ContainerSpec, OutputStream, Phase, Report

pytestmark = [pytest.mark.testbed, BOTH_WAYS]

ENDLESS = ("/bin/sh", "-c", "echo up; while :; do sleep 0.1; done")


async def started(bench: Bench, slurm: Adapter, spec: ContainerSpec) -> str:
    """Start it; return its job's id once its program runs."""
    await slurm.create_container(spec)
    await slurm.start_container(spec.id)
    assert await anext(slurm.output(spec.id, OutputStream.STDOUT, 0)) == b"up\n"
    await bench.report(spec.id, Phase.RUNNING)
    return (await slurm.details(spec.id))["job_id"]


def scontrol(bench: Bench, *words: str) -> None:
    bench.bed.cluster.run("login", ["scontrol", *words], check=True)


async def told(bench: Bench, spec: ContainerSpec, phase: Phase, reason: str) -> Report:
    """The first report with this reason, once it has come."""

    async def look() -> Report | None:
        reports = bench.reports.get(spec.id, ())
        return next((report for report in reports if (report.phase, report.reason) == (phase, reason)), None)

    return await eventually(look, f"a report that is {phase.name} for {reason}")


async def test_a_job_that_an_admin_cancels_ends_with_that_reason(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(ENDLESS)
        job_id = await started(bench, slurm, spec)
        bench.bed.cluster.run("login", ["scancel", job_id], check=True)
        report = await bench.report(spec.id, Phase.EXITED)
        assert report.reason == "Cancelled"
        assert report.exit_code in {137, 143}
        assert f"job {job_id} CANCELLED" in report.message
        await slurm.remove_container(spec.id)


async def test_a_job_that_is_suspended_runs_on_and_says_so_until_it_is_resumed(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(ENDLESS)
        job_id = await started(bench, slurm, spec)
        before = await told(bench, spec, Phase.RUNNING, "")
        scontrol(bench, "suspend", job_id)
        suspended = await told(bench, spec, Phase.RUNNING, "Suspended")
        assert "SUSPENDED" in suspended.message
        assert suspended.started_at_ns == before.started_at_ns
        bench.reports[spec.id].clear()
        scontrol(bench, "resume", job_id)
        assert (await told(bench, spec, Phase.RUNNING, "")).message == before.message
        await slurm.stop_container(spec.id, 0)
        await slurm.remove_container(spec.id)


async def test_a_job_that_an_admin_holds_tells_why_it_waits_and_runs_when_it_is_released(bench: Bench) -> None:
    try:
        async with bench.adapter() as slurm:
            spec = bench.spec(["/bin/true"])
            await slurm.create_container(spec)
            scontrol(bench, "update", "partitionname=batch", "state=down")
            await slurm.start_container(spec.id)
            await told(bench, spec, Phase.QUEUED, "PartitionDown")
            job_id = (await slurm.details(spec.id))["job_id"]
            scontrol(bench, "hold", job_id)
            held = await told(bench, spec, Phase.QUEUED, "JobHeldAdmin")
            assert held.message == f"job {job_id} is PENDING: JobHeldAdmin"
            scontrol(bench, "update", "partitionname=batch", "state=up")
            scontrol(bench, "release", job_id)
            assert (await bench.report(spec.id, Phase.EXITED)).exit_code == 0
            await slurm.remove_container(spec.id)
    finally:
        scontrol(bench, "update", "partitionname=batch", "state=up")


async def test_a_job_whose_reservation_is_gone_is_held_and_says_why(bench: Bench) -> None:
    name = f"of-{secrets.token_hex(4)}"
    of = ["users=alice", "nodes=cn2", "starttime=now", "duration=10", "flags=ignore_jobs"]
    scontrol(bench, "create", "reservation", f"reservationname={name}", *of)
    try:
        async with bench.adapter() as slurm:
            asks = {"slurm.multicri.io/reservation": name, "slurm.multicri.io/begin": "now+1hour"}
            spec = bench.spec(["/bin/true"], annotations=asks)
            await slurm.create_container(spec)
            await slurm.start_container(spec.id)
            await told(bench, spec, Phase.QUEUED, "BeginTime")
            scontrol(bench, "update", f"reservationname={name}", "endtime=now+3")
            held = await told(bench, spec, Phase.QUEUED, "ReservationDeleted")
            assert f"is RESV_DEL_HOLD: Reservation {name} was deleted" in held.message
            assert (await slurm.stop_container(spec.id, 0)).reason == "Cancelled"
            await slurm.remove_container(spec.id)
    finally:
        bench.bed.cluster.run("login", ["scontrol", "delete", f"reservation={name}"])  # unless it has ended


@pytest.mark.parametrize("how", [("requeue",), ("requeuehold", "State=SpecialExit")])
async def test_a_job_that_an_admin_requeues_is_cancelled_in_whatever_state_it_waits(
    bench: Bench, how: tuple[str, ...]
) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(ENDLESS)
        job_id = await started(bench, slurm, spec)
        scontrol(bench, "update", f"jobid={job_id}", "requeue=1")
        scontrol(bench, *how, job_id)
        report = await bench.report(spec.id, Phase.EXITED)
        assert (report.reason, report.exit_code in {137, 143}) == ("Requeued", True)
        await slurm.remove_container(spec.id)


async def test_a_job_that_an_admin_requeues_while_no_proxy_is_there_does_not_run_its_container_twice(
    bench: Bench,
) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(ENDLESS)
        job_id = await started(bench, slurm, spec)
        scontrol(bench, "update", f"jobid={job_id}", "requeue=1")
    scontrol(bench, "requeue", job_id)

    async def has_run_again() -> bool:
        state = bench.jobs("alice", spec.id)[0].split()[1]
        if state == "PENDING":  # Slurm lets a requeued job wait for two minutes
            bench.bed.cluster.run("login", ["scontrol", "update", f"jobid={job_id}", "StartTime=now"])
        return state in {"FAILED", "COMPLETED"}

    await eventually(has_run_again, "the job has run again")
    bench.reports.clear()
    async with bench.adapter() as slurm:
        report = await bench.report(spec.id, Phase.EXITED)
        assert report.exit_code in {137, 143}
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"up\n"
        await slurm.remove_container(spec.id)


async def test_a_job_whose_node_is_declared_down_ends_with_that_reason(bench: Bench) -> None:
    try:
        async with bench.adapter() as slurm:
            spec = bench.spec(ENDLESS, cluster={"JOB_CUSTOM_CONFIG": "--time=5 --mem=100M\n--nodelist=cn2"})
            job_id = await started(bench, slurm, spec)
            scontrol(bench, "update", "nodename=cn2", "state=down", "reason=test")
            report = await bench.report(spec.id, Phase.EXITED)
            assert report.reason == "NodeFailure"
            assert f"job {job_id} NODE_FAIL" in report.message
            await slurm.remove_container(spec.id)
    finally:
        # it is an error if the node has come back by itself, as ReturnToService=2 lets it
        bench.bed.cluster.run("login", ["scontrol", "update", "nodename=cn2", "state=resume"])
        bench.bed.cluster.wait_ready()


async def test_a_job_that_makes_way_for_another_ends_with_that_reason(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        whole = {"JOB_CUSTOM_CONFIG": "--time=5 --mem=3900M\n--nodelist=cn1"}
        spec = bench.spec(ENDLESS, cluster=whole)
        job_id = await started(bench, slurm, spec)
        urgent = bench.spec(["/bin/true"], cluster={**whole, "JOB_QUEUE": "urgent"})
        await slurm.create_container(urgent)
        await slurm.start_container(urgent.id)
        assert (await bench.report(urgent.id, Phase.EXITED)).exit_code == 0
        report = await bench.report(spec.id, Phase.EXITED)
        assert report.reason == "Preempted"
        assert f"job {job_id} PREEMPTED" in report.message
        for one in (spec, urgent):
            await slurm.remove_container(one.id)
