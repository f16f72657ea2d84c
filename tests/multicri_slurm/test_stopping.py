"""Stopping and removing, in the real cluster."""

import asyncio

import pytest
from slurm_bench import BOTH_WAYS, Bench, eventually

from multicri_proxy.api.adapter import Adapter, ContainerSpec, OutputStream, Phase

pytestmark = [pytest.mark.testbed, BOTH_WAYS]


def processes(bench: Bench, user: str) -> list[str]:
    """What still runs of the user's jobs, on either node."""
    ps = ["ps", "-u", user, "-o", "args="]
    lines = [line for node in ("cn1", "cn2") for line in bench.bed.cluster.run(node, ps).stdout.splitlines()]
    return [line for line in lines if "defunct" not in line]


async def run_until_it_says(slurm: Adapter, spec: ContainerSpec, word: bytes) -> None:
    await slurm.create_container(spec)
    await slurm.start_container(spec.id)
    async with asyncio.timeout(60):
        async for piece in slurm.output(spec.id, OutputStream.STDOUT, 0):
            if word in piece:
                return


async def test_without_grace_a_container_is_killed_at_once(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", "trap 'exit 21' TERM; echo up; while :; do sleep 0.1; done"])
        await run_until_it_says(slurm, spec, b"up")
        report = await slurm.stop_container(spec.id, 0)
        assert report.exit_code == 137, "it is not even told"
        assert processes(bench, "alice") == []
        await slurm.remove_container(spec.id)


async def test_a_pending_job_is_cancelled(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/true"], cluster={"JOB_CUSTOM_CONFIG": "--begin=now+1hour"})
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)

        async def reason() -> bool:
            return (await slurm.details(spec.id)).get("queue_reason") == "BeginTime"

        await eventually(reason, "the queue's reason in the details")
        report = await slurm.stop_container(spec.id, 30)
        assert (report.phase, report.exit_code, report.reason) == (Phase.EXITED, 137, "Cancelled")
        assert bench.reports[spec.id][0].phase is Phase.QUEUED
        await slurm.remove_container(spec.id)
    assert bench.containers_kept() == []


async def test_a_container_that_was_never_started_can_be_stopped_and_removed(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/true"])
        await slurm.create_container(spec)
        assert (await slurm.stop_container(spec.id, 30)).phase is Phase.EXITED
        await slurm.start_container(spec.id)
        await slurm.remove_container(spec.id)
        await slurm.remove_container(spec.id)
    assert bench.jobs("alice", spec.id) == []
    assert bench.home_files("alice", spec.pod.sandbox_id) == []


async def test_removing_a_running_container_ends_its_job(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", "echo up; sleep 1000"])
        await run_until_it_says(slurm, spec, b"up")
        await slurm.remove_container(spec.id)
        assert bench.jobs("alice", spec.id)[0].split()[1] not in {"RUNNING", "PENDING"}
    assert bench.home_files("alice", spec.pod.sandbox_id) == []


async def test_a_job_that_someone_else_cancels_ends_its_container(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"])
        await run_until_it_says(slurm, spec, b"up")
        bench.bed.cluster.run("login", ["scancel", bench.jobs("alice", spec.id)[0].split()[0]], user="alice")
        report = await bench.report(spec.id, Phase.EXITED)
        assert (report.exit_code, report.reason) == (137, "Cancelled")
        await slurm.remove_container(spec.id)
