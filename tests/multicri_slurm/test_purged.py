"""Jobs that end, and that slurmctld forgets, while no proxy runs: in a cluster with accounting and in one without."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from slurm_bench import BOTH_WAYS, Bench, eventually, everything
from testbed import Testbed

from multicri_proxy.api.adapter import ContainerSpec, OutputStream, Phase

pytestmark = [pytest.mark.testbed, BOTH_WAYS]


@pytest.fixture(scope="module", params=[True, False], ids=["with slurmdbd", "without slurmdbd"])
def bed(bed: Testbed, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """A forgetful cluster in place of the one that was up; that one is up again afterwards."""
    forgetful = Testbed(settings=replace(bed.settings, accounting=request.param, min_job_age_s=2))
    forgetful.up()
    yield forgetful
    bed.up()


async def started_and_left(bench: Bench, script: str) -> tuple[ContainerSpec, str]:
    """Start a container, and end the proxy once it runs. Returns its job's id, too."""
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", script])
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        assert await anext(slurm.output(spec.id, OutputStream.STDOUT, 0)) == b"up\n"
        job_id = (await slurm.details(spec.id))["job_id"]
    bench.reports.clear()
    return spec, job_id


async def forgotten(bench: Bench, spec: ContainerSpec) -> None:
    async def gone() -> bool:
        return bench.jobs("alice", spec.id) == []

    await eventually(gone, "slurmctld has forgotten the job", within_s=120)


async def test_an_exit_code_is_the_containers_own_all_the_same(bench: Bench) -> None:
    script = "trap 'echo more; exit 42' TERM; echo up; while :; do sleep 0.1; done"
    spec, job_id = await started_and_left(bench, script)
    bench.bed.cluster.run("login", ["scancel", "-b", "-s", "TERM", job_id], check=True)
    await forgotten(bench, spec)
    async with bench.adapter() as slurm:
        report = await bench.report(spec.id, Phase.EXITED)
        assert (report.exit_code, report.reason) == (42, "Error")
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"up\nmore\n"
        await slurm.remove_container(spec.id)
    assert bench.home_files("alice", spec.pod.sandbox_id) == []


async def test_without_an_exit_file_the_accounting_tells_or_the_job_is_lost(bench: Bench) -> None:
    spec, job_id = await started_and_left(bench, "echo up; while :; do sleep 0.1; done")
    bench.bed.cluster.run("login", ["scancel", job_id], check=True)
    await forgotten(bench, spec)
    for path in bench.home_files("alice", "exit"):
        bench.bed.cluster.run("login", ["rm", path.replace(str(bench.bed.cluster.user("alice").home), "/home/alice")])
    async with bench.adapter() as slurm:
        report = await bench.report(spec.id, Phase.EXITED)
        if bench.bed.settings.accounting:
            assert (report.exit_code, report.reason) == (137, "Cancelled")
            assert f"job {job_id} CANCELLED by {'root' if bench.rest else 'uid 0'}" in report.message
        else:
            assert (report.exit_code, report.reason) == (255, "JobLost")
        await slurm.remove_container(spec.id)


async def test_a_job_that_can_no_longer_end_before_its_deadline_has_failed_with_that_reason(bench: Bench) -> None:
    """slurmctld looks for such jobs when it forgets others."""
    bench.bed.cluster.run("login", ["scontrol", "update", "partitionname=gpu", "state=down"], check=True)
    try:
        async with bench.adapter() as slurm:
            options = "--partition=gpu --time=1 --deadline=now+70"
            spec = bench.spec(["/bin/true"], cluster={"JOB_CUSTOM_CONFIG": options})
            await slurm.create_container(spec)
            await slurm.start_container(spec.id)
            report = await bench.report(spec.id, Phase.EXITED, within_s=120)
            assert (report.reason, report.exit_code) == ("DeadlineExceeded", 143)
            assert "DEADLINE" in report.message
            await slurm.remove_container(spec.id)
    finally:
        bench.bed.cluster.run("login", ["scontrol", "update", "partitionname=gpu", "state=up"], check=True)
