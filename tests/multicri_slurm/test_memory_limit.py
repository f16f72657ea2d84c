"""A container that wants more memory than its job has, in a cluster that enforces it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from slurm_bench import BOTH_WAYS, Bench, everything
from testbed import Testbed

from multicri_proxy.api.adapter import OutputStream, Phase, Resources

pytestmark = [pytest.mark.testbed, BOTH_WAYS]


@pytest.fixture(scope="module")
def bed(bed: Testbed) -> Iterator[Testbed]:
    """A cluster with limits in place of the one that was up; that one is up again afterwards."""
    limited = Testbed(settings=replace(bed.settings, memory_limits=True))
    limited.up()
    yield limited
    bed.up()


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_container_over_its_memory_limit_is_told_as_the_kubelet_tells_it(bench: Bench, user: str) -> None:
    async with bench.adapter() as slurm:
        program = "echo up; exec tail /dev/zero"
        spec = bench.spec(["/bin/sh", "-c", program], user=user, cluster={"JOB_CUSTOM_CONFIG": "--time=5 --mem=60M"})
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        report = await bench.report(spec.id, Phase.EXITED)
        assert (report.exit_code, report.reason) == (137, "OOMKilled")
        assert "OUT_OF_MEMORY" in report.message
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"up\n"
        await slurm.remove_container(spec.id)


async def test_a_container_over_its_limit_ends_alone_although_its_pod_is_one_allocation(bench: Bench) -> None:
    asks: dict[str, str | None] = {"JOB_CUSTOM_CONFIG": None}
    annotations = {"slurm.multicri.io/pod-model": "allocation-per-pod", "slurm.multicri.io/mem": "150M"}
    async with bench.adapter() as slurm:
        stays = bench.spec(["/bin/sh", "-c", "sleep 600"], cluster=asks, annotations=annotations)
        eats = bench.spec(
            ["/bin/sh", "-c", "exec tail /dev/zero"],
            cluster=asks,
            resources=Resources(memory_bytes=60 << 20),
        )
        eats = replace(eats, pod=stays.pod)
        for spec in (stays, eats):
            await slurm.create_container(spec)
            await slurm.start_container(spec.id)
        report = await bench.report(eats.id, Phase.EXITED)
        assert (report.exit_code, report.reason) == (137, "OOMKilled")
        assert (await bench.report(stays.id, Phase.RUNNING)).phase is Phase.RUNNING
        await slurm.stop_sandbox(stays.pod.sandbox_id)
        for spec in (eats, stays):
            await slurm.remove_container(spec.id)
        assert not [key for key in bench.store.rows if not key.startswith("image/")]
