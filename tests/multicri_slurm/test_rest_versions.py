"""Every version of slurmrestd's interface that Debian's Slurms speak, and one that speaks none that is known here."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from multicri_slurm.profiles import read_profiles
from multicri_slurm.rest_api import VERSIONS, RestApi
from multicri_slurm.variables import read_variables
from slurm_bench import Bench, everything
from testbed import Testbed
from testbed.cluster import REST_PORT
from testbed.rest_gate import Gate, answering
from testbed.settings import ReleaseName

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, Unavailable

OVER_REST = pytest.mark.parametrize("bench", ["rest"], indirect=True)
SPOKEN: dict[ReleaseName, tuple[str, ...]] = {
    "trixie": ("v0.0.40", "v0.0.41"),  # and v0.0.42, which all other tests speak there
    "sid": ("v0.0.43", "v0.0.44", "v0.0.45"),
}


def test_every_version_is_tried() -> None:
    assert {*SPOKEN["trixie"], "v0.0.42", *SPOKEN["sid"]} == set(VERSIONS)


@pytest.fixture(scope="module", params=["trixie", pytest.param("sid", marks=pytest.mark.other_releases)])
def bed(bed: Testbed, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """A cluster of the release in place of the one that was up; that one is up again afterwards."""
    if request.param == bed.settings.release:
        yield bed
        return
    other = Testbed(settings=replace(bed.settings, release=request.param))
    other.up()
    yield other
    bed.up()


@pytest.fixture
async def gate(bench: Bench) -> AsyncIterator[Gate]:
    async with Gate(bench.bed.cluster.host, REST_PORT).serving() as gate:
        bench.settings |= {"rest_url": f"http://127.0.0.1:{gate.port}", "rest_unencrypted": False}
        yield gate


@pytest.mark.testbed
@OVER_REST
async def test_a_container_is_run_stopped_and_removed_by_each_version(bench: Bench, gate: Gate) -> None:
    for version in SPOKEN[bench.bed.settings.release]:
        gate.speaks = version
        async with bench.adapter() as slurm:
            options = "--time=02:03:30 --mem=150M --nice=5 --ntasks-per-node=2 --exclude=cn1"
            spec = bench.spec(
                ["/bin/sh", "-c", "trap 'exit 21' TERM; echo up; while :; do sleep 0.1; done"],
                env={"JOB_GPU": "gpu:a100:1"},
                cluster={"JOB_CUSTOM_CONFIG": options},
            )
            await slurm.create_container(spec)
            await slurm.start_container(spec.id)
            assert await anext(slurm.output(spec.id, OutputStream.STDOUT, 0)) == b"up\n"
            facts = bench.job_facts(bench.jobs("alice", spec.id)[0].split()[0])
            assert (facts["TimeLimit"], facts["MinMemoryNode"], facts["Requeue"]) == ("02:04:00", "150M", "0")
            assert (facts["NodeList"], facts["NumTasks"]) == ("cn2", "2"), version
            assert facts["TresPerNode"] == "gres/gpu:a100:1"
            assert (await slurm.stop_container(spec.id, 30)).exit_code == 21
            assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"up\n"
            nowhere = bench.spec(["/bin/true"], env={"JOB_QUEUE": "nowhere"})
            await slurm.create_container(nowhere)
            with pytest.raises(InvalidArgument, match="Invalid partition name"):
                await slurm.start_container(nowhere.id)
            for one in (spec, nowhere):
                await slurm.remove_container(one.id)
        assert bench.containers_kept() == []


def api_of(directory: Path, port: int) -> RestApi:
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text("a.b.c")
    hpc = {
        "rest_url": f"http://127.0.0.1:{port}",
        "shared_directory": "/mnt",
        **{"user": "alice", "token_file": str(token), "uid": 2001, "gid": 2001},
    }
    profile = read_profiles({"clusters": {"hpc": hpc}}, ("multicri",)).named("hpc")
    return RestApi(profile.login_for(read_variables({}), "default"), profile.settings)


async def test_a_slurmrestd_that_speaks_other_versions_alone_is_told_with_these(tmp_path: Path) -> None:
    paths = {f"/{part}/{version}/ping/": {} for part in ("slurm", "slurmdb") for version in ("v0.0.37", "v0.0.38")}
    schema = json.dumps({"paths": paths}).replace("/", "\\/")  # as json-c writes it: Slurm 22.05
    async with answering({"/openapi/v3": schema.encode()}) as port:
        with pytest.raises(FailedPrecondition, match=r"speaks v0\.0\.37, v0\.0\.38, .* v0\.0\.40 \(Slurm 23\.11\)"):
            await api_of(tmp_path, port).version()


async def test_what_is_no_slurmrestd_is_unavailable(tmp_path: Path) -> None:
    async with answering({}) as port:
        with pytest.raises(Unavailable, match="does not speak slurmrestd's language"):
            await api_of(tmp_path, port).version()
