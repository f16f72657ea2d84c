"""A job is submitted once, whatever happens on the way: sbatch is held up, calls are cancelled, processes restart."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_bench import BOTH_WAYS, Bench, eventually, everything

from multicri_proxy.api.adapter import OutputStream, Phase
from multicri_proxy.api.errors import Unavailable

pytestmark = pytest.mark.testbed

HELD_UP = """#!/bin/sh
[ ! -e "$HOME/hold-before" ] || { touch "$HOME/held-before"; while [ -e "$HOME/hold-before" ]; do sleep 0.05; done; }
/usr/bin/sbatch "$@"; code=$?
[ ! -e "$HOME/hold-after" ] || { touch "$HOME/held-after"; while [ -e "$HOME/hold-after" ]; do sleep 0.05; done; }
exit $code
"""


class Gate:
    """Holds up every sbatch of bob, before or after the real one."""

    def __init__(self, home: Path, where: str) -> None:
        self._hold, self._held = home / f"hold-{where}", home / f"held-{where}"
        self._hold.touch()
        self._held.unlink(missing_ok=True)

    async def reached(self) -> None:
        async def look() -> bool:
            return self._held.exists()

        await eventually(look, "sbatch is held up")

    def open(self) -> None:
        self._hold.unlink(missing_ok=True)
        self._held.unlink(missing_ok=True)


@pytest.fixture(params=["before", "after"])
def gate(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Gate]:
    install = "cd /usr/local/bin && cat > sbatch.new && chmod 755 sbatch.new && mv sbatch.new sbatch"
    bench.bed.cluster.run("login", ["sh", "-c", install], stdin=HELD_UP, check=True)
    gate = Gate(bench.bed.cluster.user("bob").home, request.param)
    yield gate
    gate.open()
    bench.bed.cluster.run("login", ["rm", "-f", "/usr/local/bin/sbatch"], check=True)


@BOTH_WAYS
async def test_a_second_start_starts_nothing_more(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "once"], user="bob")
        await slurm.create_container(spec)
        await asyncio.gather(*(slurm.start_container(spec.id) for _ in range(5)))
        await slurm.start_container(spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"once\n"
        assert len(bench.jobs("bob", spec.id)) == 1
        await slurm.remove_container(spec.id)


async def test_a_start_that_is_cancelled_goes_on_and_a_second_one_joins_it(bench: Bench, gate: Gate) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "once"], user="bob")
        await slurm.create_container(spec)
        first = asyncio.ensure_future(slurm.start_container(spec.id))
        await gate.reached()
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        second = asyncio.ensure_future(slurm.start_container(spec.id))
        gate.open()
        await second
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"once\n"
        assert len(bench.jobs("bob", spec.id)) == 1
        await slurm.remove_container(spec.id)


async def test_a_process_that_dies_during_the_submit_finds_its_job_again(bench: Bench, gate: Gate) -> None:
    spec = bench.spec(["/bin/echo", "once"], user="bob")
    async with bench.adapter() as slurm:
        await slurm.create_container(spec)
        first = asyncio.ensure_future(slurm.start_container(spec.id))
        await gate.reached()
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    async with bench.adapter() as slurm:
        again = asyncio.ensure_future(slurm.start_container(spec.id))
        gate.open()
        await again
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"once\n"
        assert len(bench.jobs("bob", spec.id)) == 1
        await slurm.remove_container(spec.id)
    assert bench.containers_kept() == []


async def test_what_nobody_knows_any_more_after_a_restart_is_cleaned_up(bench: Bench, gate: Gate) -> None:
    spec = bench.spec(["/bin/sh", "-c", "sleep 1000"], user="bob")
    async with bench.adapter() as slurm:
        await slurm.create_container(spec)
        first = asyncio.ensure_future(slurm.start_container(spec.id))
        await gate.reached()
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    bench.known.clear()
    async with bench.adapter():
        gate.open()

        async def clean() -> bool:
            return not bench.containers_kept()

        await eventually(clean, "nothing is left")
    assert bench.home_files("bob", spec.pod.sandbox_id) == []
    assert [job for job in bench.jobs("bob", spec.id) if job.split()[1] in {"PENDING", "RUNNING"}] == []


async def test_a_stop_during_the_submit_ends_the_job(bench: Bench, gate: Gate) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", "sleep 1000"], user="bob")
        await slurm.create_container(spec)
        start = asyncio.ensure_future(slurm.start_container(spec.id))
        await gate.reached()
        stop = asyncio.ensure_future(slurm.stop_container(spec.id, 1))
        gate.open()
        await start
        report = await stop
        assert report.phase is Phase.EXITED
        assert report.exit_code in {137, 143}
        await slurm.remove_container(spec.id)


async def test_a_silent_slurmctld_is_unavailable_and_the_next_start_submits_once(bench: Bench) -> None:
    cluster = bench.bed.cluster
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "once"], user="bob")
        await slurm.create_container(spec)
        cluster.stop_daemon("slurmctld")
        try:
            with pytest.raises(Unavailable, match="Slurm does not answer"):
                await slurm.start_container(spec.id)
            assert (await slurm.details(spec.id))["stage"] == "submitting"
        finally:
            cluster.start_daemon("slurmctld")
        await slurm.start_container(spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"once\n"
        assert len(bench.jobs("bob", spec.id)) == 1
        await slurm.remove_container(spec.id)


async def test_a_connection_that_is_cut_is_opened_again(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", "echo up; while ! [ -e /tmp/x ]; do sleep 0.1; done"], user="bob")
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        await bench.report(spec.id, Phase.RUNNING)
        bench.bed.cluster.run("login", ["pkill", "-KILL", "-u", "bob", "sshd"])

        async def first_piece() -> bytes | None:
            try:
                return await anext(slurm.output(spec.id, OutputStream.STDOUT, 0))
            except Unavailable:
                return None

        assert await eventually(first_piece, "output over a new connection") == b"up\n"
        assert (await slurm.stop_container(spec.id, 5)).phase is Phase.EXITED
        await slurm.remove_container(spec.id)
