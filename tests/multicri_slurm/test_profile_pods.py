"""Pods of profiles, as jobs in the real cluster: whose they are, how many, what runs first, what a restart finds."""

from dataclasses import replace
from pathlib import Path

import pytest
from multicri_slurm.adapter import adapter as make_adapter
from runtime.doubles import MemoryImages
from slurm_bench import Bench, everything

from multicri_proxy.api.adapter import AdapterContext, ContainerSpec, OutputStream, Phase
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, ResourceExhausted

pytestmark = pytest.mark.testbed

NO_LOGIN: dict[str, str | None] = {"CLUSTER_HOST": None, "CLUSTER_USERNAME": None, "CLUSTER_KEYVALUE": None}


@pytest.fixture
def hpc(bench: Bench, tmp_path: Path) -> dict[str, object]:
    """A cluster that bob's key file opens, and alice's for the namespace default."""
    keys = {}
    for name in ("alice", "bob"):
        path = tmp_path / name
        path.write_text(bench.bed.cluster.user(name).key.read_text())
        path.chmod(0o600)
        keys[name] = {"user": name, "key_file": str(path)}
    return {
        "host": bench.bed.cluster.host,
        "handlers": ["multicri"],
        "users": {"default": keys["alice"]},
        **keys["bob"],
    }


def spec_of(bench: Bench, *words: str, **variables: str) -> ContainerSpec:
    """A pod of the profile that brings no credentials."""
    spec = bench.spec(["sh", "-c", *words], cluster=NO_LOGIN | variables)
    return replace(spec, pod=replace(spec.pod, annotations={"slurm.multicri.io/cluster": "hpc"}))


async def ran(bench: Bench, spec: ContainerSpec, **settings: object) -> tuple[int, str, bytes]:
    """The exit code, reason and stdout of a container."""
    async with bench.adapter(**settings) as entered:
        await entered.create_container(spec)
        await entered.start_container(spec.id)
        report = await bench.report(spec.id, Phase.EXITED)
        stdout = await everything(entered, spec.id, OutputStream.STDOUT)
        await entered.remove_container(spec.id)
        return report.exit_code, report.reason, stdout


async def test_a_pod_without_credentials_runs_as_whom_its_namespace_is_mapped_to(
    bench: Bench, hpc: dict[str, object]
) -> None:
    spec = spec_of(bench, "echo ran")
    async with bench.adapter(clusters={"hpc": hpc}) as entered:
        await entered.create_container(spec)
        facts = await entered.details(spec.id)
        assert (facts["profile"], facts["account"]) == ("hpc", f"alice@{bench.bed.cluster.host}:22")
        await entered.start_container(spec.id)
        assert (await bench.report(spec.id, Phase.EXITED)).exit_code == 0
        assert bench.home_files("alice", spec.id)
        await entered.remove_container(spec.id)
    private = bench.bed.cluster.user("alice").key.read_text().splitlines()[2].encode()
    assert not [value for value in bench.store.rows.values() if private in value]


async def test_what_an_admin_has_run_first_is_there_for_the_probe_and_the_job_and_tells_if_it_fails(
    bench: Bench, hpc: dict[str, object]
) -> None:
    text = "printf x >> ~/prerun-ran; echo noise; cat"
    home = bench.bed.cluster.user("alice").home
    settings = {"clusters": {"hpc": hpc | {"prerun": text, "image_remote_mount": "multi-cri-tests/for-prerun"}}}
    assert await ran(bench, spec_of(bench, "echo x"), **settings) == (0, "Completed", b"x\n")
    assert (home / "prerun-ran").read_text() == "xxx"  # to probe, to build, in the job
    for text in (
        "echo no such module >&2; false",
        "echo no such module >&2; exit 4",
        "set -e; echo no such module >&2; false",
    ):
        with pytest.raises(FailedPrecondition, match=r"prerun text .* ended with [14]: .*no such module"):
            await ran(bench, spec_of(bench, "true"), clusters={"hpc": hpc | {"prerun": text}})


async def test_a_runtime_that_only_the_pods_own_prerun_text_brings_is_found(bench: Bench) -> None:
    few = bench.bed.cluster.user("alice").home / "few"
    few.mkdir()
    for program in (bench.bed.cluster.root.path / "usr/bin").iterdir():
        if not program.name.startswith(("apptainer", "singularity", "ch-")):
            (few / program.name).symlink_to(f"/usr/bin/{program.name}")
    hidden = {"prerun": 'PATH="$HOME/few"'}
    async with bench.adapter(**hidden) as entered:
        with pytest.raises(FailedPrecondition, match="no container runtime: looked for apptainer"):
            await entered.create_container(bench.spec(["true"]))
    spec = bench.spec(["echo", "found"], cluster={"CLUSTER_CONFIG": 'PATH="$PATH:/usr/bin"'})
    assert await ran(bench, spec, **hidden) == (0, "Completed", b"found\n")


async def test_no_more_containers_than_allowed_are_under_way_and_the_next_one_may_when_one_has_ended(
    bench: Bench, hpc: dict[str, object]
) -> None:
    limited = {"clusters": {"hpc": hpc | {"max_jobs": 1}}}
    first, second = spec_of(bench, "exit 0"), spec_of(bench, "exit 0")
    async with bench.adapter(**limited) as entered:
        await entered.create_container(first)
        with pytest.raises(ResourceExhausted, match=r"1 containers .* slurm\.clusters\.hpc\.max_jobs allows no more"):
            await entered.create_container(second)
        assert bench.home_files("alice", second.id) == []
    async with bench.adapter(**limited) as entered:
        with pytest.raises(ResourceExhausted):
            await entered.create_container(second)
        await entered.start_container(first.id)
        await bench.report(first.id, Phase.EXITED)
        await entered.create_container(second)
        for spec in (first, second):
            await entered.remove_container(spec.id)


async def test_after_a_restart_a_job_goes_on_with_the_profile_that_it_was_created_with_or_says_what_is_missing(
    bench: Bench, hpc: dict[str, object]
) -> None:
    spec, staged = spec_of(bench, "sleep 600"), spec_of(bench, "true")
    async with bench.adapter(clusters={"hpc": hpc}) as entered:
        await entered.create_container(spec)
        await entered.start_container(spec.id)
        await entered.create_container(staged)
        await bench.report(spec.id, Phase.RUNNING)
    async with bench.adapter() as entered:
        gone = "the profile 'hpc' is gone from slurm.clusters: put it back"
        with pytest.raises(FailedPrecondition, match=gone):
            await entered.stop_container(spec.id, 0)
        with pytest.raises(FailedPrecondition, match=gone):
            await entered.remove_container(spec.id)
        await entered.remove_container(staged.id)  # there is no job to be lost
        assert await entered.details(staged.id) == {}
    elsewhere = hpc | {"host": "192.0.2.1"}
    async with bench.adapter(clusters={"hpc": elsewhere}) as entered:
        with pytest.raises(FailedPrecondition, match=r"slurm\.clusters\.hpc is no longer about alice@"):
            await entered.stop_container(spec.id, 0)
    async with bench.adapter(clusters={"hpc": hpc}) as entered:
        assert (await entered.stop_container(spec.id, 0)).exit_code == 137
        await entered.remove_container(spec.id)


async def test_settings_of_a_cluster_that_are_wrong_stop_the_adapter_at_its_start(bench: Bench) -> None:
    context = AdapterContext(
        settings={"clusters": {"hpc": {"host": "h", "handlers": ["kata"]}}},
        store=bench.store,
        secrets=None,  # type: ignore[arg-type]
        images=MemoryImages(),
        image_builders=(),
    )
    with pytest.raises(InvalidArgument, match="add it to the setting handler"):
        make_adapter(context)
