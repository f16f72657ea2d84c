"""MPI jobs where Slurm names PMIx, and nodes lack its library."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_bench import Bench, everything
from testbed import Testbed

from multicri_proxy.api.adapter import OutputStream, Phase, Report

pytestmark = pytest.mark.testbed

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/pmix2/lib/libpmix.so.2")
"""By this name Slurm's plug-in finds it; mpirun by another one."""


@pytest.fixture(params=[("cn2",), ("cn1", "cn2")], ids=["one-node", "all-nodes"])
def without_pmix(bed: Testbed, request: pytest.FixtureRequest) -> Iterator[None]:
    for node in request.param:
        bed.cluster.run(node, ["mv", str(LIBRARY), "/root/"], check=True)
    yield
    for node in request.param:
        bed.cluster.run(node, ["mv", f"/root/{LIBRARY.name}", str(LIBRARY)], check=True)


async def outcome(bench: Bench, prerun: str = "", **annotations: str) -> tuple[Report, str, str]:
    """How a job of two ranks on two nodes ended; what it said on stdout and stderr."""
    asks: dict[str, str | None] = {
        "MPI_VERSION": "5.0",
        "JOB_CUSTOM_CONFIG": "--time=5 --mem=100M --nodes=2 --ntasks=2",
    }
    spec = bench.spec(
        ["mpi-ranks"],
        image=f"multicri/docker.{bench.bed.push_mpi_image()}",
        cluster=asks | ({"CLUSTER_CONFIG": prerun} if prerun else {}),
        annotations={f"slurm.multicri.io/{name}": value for name, value in annotations.items()},
    )
    async with bench.adapter() as slurm:
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        said = [(await everything(slurm, spec.id, stream)).decode() for stream in OutputStream]
        report = await bench.report(spec.id, Phase.EXITED)
        await slurm.remove_container(spec.id)
    return report, said[0], said[1]


@pytest.mark.usefixtures("without_pmix")
async def test_mpirun_starts_the_ranks_where_srun_cannot_and_the_log_says_so(bench: Bench) -> None:
    report, stdout, stderr = await outcome(bench)
    assert report.exit_code == 0, (report, stdout, stderr)
    assert sorted(line.split()[5] for line in stdout.splitlines()) == ["cn1,", "cn2,"]
    assert "multicri: srun --mpi=pmix does not work on the nodes of this job: mpirun starts the ranks\n" in stderr


@pytest.mark.usefixtures("without_pmix")
async def test_a_pod_that_wants_pmix_and_nothing_else_fails_at_once_and_is_told_the_other_way(bench: Bench) -> None:
    report, stdout, _ = await outcome(bench, mpi="pmix")
    assert (report.exit_code, report.reason, stdout) == (1, "MpiFailed", "")
    assert "srun starts no ranks on the nodes of job" in report.message
    assert "srun: error" in report.message
    assert "the annotation slurm.multicri.io/mpi: mpirun is the other way" in report.message


@pytest.mark.parametrize("without_pmix", [("cn1", "cn2")], indirect=True)
@pytest.mark.usefixtures("without_pmix")
async def test_where_there_is_no_mpirun_either_the_job_fails_and_says_where_to_load_it(bench: Bench) -> None:
    hides = 'mkdir bin; for program in /usr/bin/*; do ln -s "$program" bin/; done; rm bin/mpirun; PATH=$PWD/bin'
    report, _, _ = await outcome(bench, prerun=hides)
    assert report.reason == "MpiFailed"
    assert "nor is there mpirun in PATH: load it in CLUSTER_CONFIG" in report.message
