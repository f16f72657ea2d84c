"""Containers that run to their end, in the real cluster."""

import pytest
from slurm_bench import BOTH_WAYS, Bench, everything

from multicri_proxy.api.adapter import OutputStream, Phase
from multicri_proxy.api.errors import InvalidArgument

pytestmark = [pytest.mark.testbed, BOTH_WAYS]

USERS = ("alice", "bob")


@pytest.mark.parametrize("user", USERS)
async def test_working_directory_and_home_are_the_pods_and_the_accounts_home_is_not_seen(
    bench: Bench, user: str
) -> None:
    (bench.bed.cluster.user(user).home / "private").write_text("private")
    async with bench.adapter() as slurm:
        spec = bench.spec(
            ["/bin/sh", "-c", f'pwd; echo "$HOME"; ls /home/{user}; touch /written && echo written'],
            user=user,
            env={"HOME": "/var"},
            working_dir="/usr",
        )
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        output = await everything(slurm, spec.id, OutputStream.STDOUT)
        await slurm.remove_container(spec.id)
    assert output == b"/usr\n/var\nwritten\n"


async def test_prerun_text_is_sourced_before_the_container(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        prerun = "set -e\necho 'from the prerun'\ncd /\ntouch ~/prerun-ran"
        spec = bench.spec(["/bin/echo", "container"], cluster={"CLUSTER_CONFIG": prerun})
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"container\n"
        await slurm.remove_container(spec.id)
    bench.bed.cluster.user("alice").home.joinpath("prerun-ran").unlink()


@pytest.mark.parametrize(("prerun", "code"), [("echo broken >&2; exit 7", 7), ("false", 1), ("exit 0", 1)])
async def test_a_prerun_that_fails_is_told_with_its_words(bench: Bench, prerun: str, code: int) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "container"], cluster={"CLUSTER_CONFIG": prerun})
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        report = await bench.report(spec.id, Phase.EXITED)
        stderr = await everything(slurm, spec.id, OutputStream.STDERR)
        assert (report.exit_code, report.reason) == (code, "PrerunFailed")
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b""
        if "broken" in prerun:
            assert b"broken" in stderr
            assert "broken" in report.message
            again = await everything(slurm, spec.id, OutputStream.STDERR, offset=3)
            assert again == stderr[3:]
        await slurm.remove_container(spec.id)


async def test_what_a_runtime_cannot_carry_is_refused_before_anything_is_touched(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        for env in ({"A": "a\r\nb"}, {"A.B": "1"}, {"IFS": "x"}, {"A": b"\xff"}):
            spec = bench.spec(["/bin/true"], env=env)
            with pytest.raises(InvalidArgument, match="Apptainer"):
                await slurm.create_container(spec)
            assert bench.home_files("alice", spec.pod.sandbox_id) == []
    assert bench.containers_kept() == []


async def test_a_time_limit_ends_a_container_with_its_reason(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", "echo up; sleep 1000"])
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        assert await anext(slurm.output(spec.id, OutputStream.STDOUT, 0)) == b"up\n"
        job_id = (await slurm.details(spec.id))["job_id"]
        ends_now = ["scontrol", "update", f"jobid={job_id}", "EndTime=now"]  # a minute is the least to be asked for
        bench.bed.cluster.run("login", ends_now, check=True)
        report = await bench.report(spec.id, Phase.EXITED, within_s=180)
        assert (report.exit_code, report.reason) == (143, "DeadlineExceeded")
        assert b"DUE TO TIME LIMIT" in await everything(slurm, spec.id, OutputStream.STDERR)
        await slurm.remove_container(spec.id)
