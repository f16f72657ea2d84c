"""What running containers use, in a cluster whose Slurm measures nothing: their own scripts tell."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from slurm_bench import Bench, eventually
from testbed import Testbed

from multicri_proxy.api.adapter import Adapter, ContainerSpec, Resources, Usage

pytestmark = pytest.mark.testbed

HOLDS = "x=$(head -c 50000000 /dev/zero | tr '\\0' x); echo full; "
BURNS = "while :; do :; done"
IDLES = "sleep 600"


@pytest.fixture(scope="module", params=[False, True], ids=["processes", "cgroups"])
def bed(bed: Testbed, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """Without cgroups and with them, in place of the cluster that was up; that one is up again afterwards."""
    unmeasured = Testbed(settings=replace(bed.settings, measured_jobs=False, memory_limits=request.param))
    unmeasured.up()
    yield unmeasured
    bed.up()


async def usage_of(entered: Adapter, spec: ContainerSpec, enough: Callable[[Usage], bool]) -> Usage:
    """Asked for as the kubelet does, until it is enough."""

    async def look() -> Usage | None:
        usage = entered.usage(spec.id)
        return usage if usage is not None and enough(usage) else None

    return await eventually(look, f"a usage other than {entered.usage(spec.id)}", within_s=120)


def holds_and_burns(usage: Usage) -> bool:
    return (usage.cpu_ns or 0) > 10**9 and (usage.memory_bytes or 0) > 50_000_000 and bool(usage.cpu_nano_cores)


async def test_jobs_steps_and_ranks_are_measured_apart_over_ssh_and_rest(bench: Bench, rest_bench: Bench) -> None:
    async with bench.adapter() as slurm, rest_bench.adapter() as rest:
        await asyncio.gather(
            a_job_is_measured(slurm, bench),
            a_job_is_measured(rest, rest_bench),
            ranks_that_srun_starts_are_measured(slurm, bench),
            steps_are_measured_apart(slurm, bench),
        )

    async def nothing_runs() -> bool:
        return not any(bench.bed.cluster.run(node, ["pgrep", "-u", "alice"]).stdout for node in ("cn1", "cn2"))

    await eventually(nothing_runs, "no process of alice's on the nodes")


async def a_job_is_measured(entered: Adapter, bench: Bench) -> None:
    spec = bench.spec(["sh", "-c", HOLDS + BURNS], cluster={"JOB_CUSTOM_CONFIG": "--time=5 --mem=300M"})
    await started(entered, spec)
    usage = await usage_of(entered, spec, holds_and_burns)
    assert 50_000_000 < (usage.resident_bytes or 0) <= (usage.memory_bytes or 0) < 300 << 20
    assert (usage.memory_bytes != usage.resident_bytes) is bench.bed.settings.memory_limits  # a cgroup knows better
    assert (usage.cpu_nano_cores or 0) < 4 * 10**9
    await entered.stop_container(spec.id, 0)
    await entered.remove_container(spec.id)


async def ranks_that_srun_starts_are_measured(entered: Adapter, bench: Bench) -> None:
    asks = {"MPI_VERSION": "5.0", "JOB_CUSTOM_CONFIG": "--time=5 --mem=300M --ntasks=1"}
    spec = bench.spec(["sh", "-c", HOLDS + BURNS], cluster=asks)
    await started(entered, spec)
    await usage_of(entered, spec, holds_and_burns)
    await entered.stop_container(spec.id, 0)
    await entered.remove_container(spec.id)


async def steps_are_measured_apart(entered: Adapter, bench: Bench) -> None:
    asks: dict[str, str | None] = {"JOB_CUSTOM_CONFIG": None}
    annotations = {"slurm.multicri.io/pod-model": "allocation-per-pod", "slurm.multicri.io/mem": "700M"}
    memory = Resources(memory_bytes=300 << 20)
    one, other = (
        bench.spec(["sh", "-c", script], cluster=asks, annotations=annotations, resources=memory)
        for script in (HOLDS + BURNS, IDLES)
    )
    other = replace(other, pod=one.pod)
    for spec in (one, other):
        await started(entered, spec)
    busy, idle = await asyncio.gather(
        usage_of(entered, one, holds_and_burns),
        usage_of(entered, other, lambda usage: usage.cpu_nano_cores is not None),
    )
    assert (idle.resident_bytes or 0) + 30_000_000 < (busy.resident_bytes or 0)
    assert (idle.cpu_ns or 0) < (busy.cpu_ns or 0)
    await entered.stop_sandbox(one.pod.sandbox_id)
    for spec in (one, other):
        await entered.remove_container(spec.id)


async def started(entered: Adapter, spec: ContainerSpec) -> None:
    await entered.create_container(spec)
    await entered.start_container(spec.id)
