"""What a pod may ask of its job, and what Slurm then has: in the real cluster."""

import re

import pytest
from multicri_slurm.annotations import PREFIX
from slurm_bench import BOTH_WAYS, Bench, everything

from multicri_proxy.api.adapter import ContainerSpec, OutputStream, Phase, Resources
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument

pytestmark = [pytest.mark.testbed, BOTH_WAYS]

USERS = ("alice", "bob")
TOOL = "multicri/docker-repository.registry.test/test/tool:1.0"
MIB = 1024 * 1024


async def output_of(bench: Bench, spec: ContainerSpec) -> list[str]:
    """Run a container to its end; what it wrote, sorted by line. Its exit code must be 0."""
    async with bench.adapter() as slurm:
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        stdout = await everything(slurm, spec.id, OutputStream.STDOUT)
        stderr = await everything(slurm, spec.id, OutputStream.STDERR)
        report = await bench.report(spec.id, Phase.EXITED)
        await slurm.remove_container(spec.id)
    assert (report.exit_code, stderr) == (0, b"")
    return sorted(stdout.decode().splitlines())


async def test_a_job_has_what_variables_annotations_and_resources_ask_for_in_this_order(bench: Bench) -> None:
    annotations = {"partition": "batch", "time": "00:07:00", "nodelist": "cn2", "gres": "gpu:a100:2", "mem": "1G"}
    async with bench.adapter() as slurm:
        spec = bench.spec(
            ["/bin/sh", "-c", "sleep 600"],
            cluster={"JOB_QUEUE": "gpu", "JOB_GPU": "gpu:1", "JOB_CUSTOM_CONFIG": "--mem-per-cpu=150M"},
            annotations={PREFIX + name: value for name, value in annotations.items()},
            resources=Resources(cpu_millicores=1500, memory_bytes=64 * MIB),
        )
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        await bench.report(spec.id, Phase.RUNNING)
        [job] = bench.jobs("alice", spec.id)
        facts = bench.job_facts(job.split()[0])
        await slurm.remove_container(spec.id)
    assert facts["Partition"] == "gpu"
    assert facts["TimeLimit"] == "00:07:00"
    assert facts["NodeList"] == "cn2"
    assert facts["TresPerNode"] == "gres/gpu:1"
    assert facts["CPUs/Task"] == "2"
    assert facts["MinMemoryCPU"] == "150M"
    assert "MinMemoryNode" not in facts


async def test_a_containers_memory_limit_is_its_jobs(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(
            ["/bin/sh", "-c", "sleep 600"],
            cluster={"JOB_CUSTOM_CONFIG": None},
            resources=Resources(cpu_request_millicores=250, memory_bytes=100 * MIB + 1),
        )
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        await bench.report(spec.id, Phase.RUNNING)
        [job] = bench.jobs("alice", spec.id)
        facts = bench.job_facts(job.split()[0])
        await slurm.remove_container(spec.id)
    assert (facts["MinMemoryNode"], facts["CPUs/Task"], facts["NumTasks"]) == ("101M", "1", "1")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(("gpu", "devices"), [("gpu", "0"), ("gpu:2", "0,1"), ("gpu:a100", "0"), ("gpu:a100:2", "0,1")])
async def test_slurm_takes_every_form_of_a_gpu_and_the_container_is_told_which_are_its_own(
    bench: Bench, user: str, gpu: str, devices: str
) -> None:
    spec = bench.spec(["/bin/sh", "-c", "echo $(hostname) $CUDA_VISIBLE_DEVICES"], user=user, env={"JOB_GPU": gpu})
    assert await output_of(bench, spec) == [f"cn2 {devices}"]


async def test_what_a_pod_says_of_visible_gpus_is_left_to_it(bench: Bench) -> None:
    env = {"JOB_GPU": "gpu:2", "CUDA_VISIBLE_DEVICES": "1"}
    assert await output_of(bench, bench.spec(["/bin/sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], env=env)) == ["1"]


async def test_a_wrong_annotation_is_refused_before_anything_reaches_the_cluster(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        for name, reason in (
            ("array", "a container is exactly one job"),
            ("partitions", f"is {PREFIX}partition meant"),
        ):
            spec = bench.spec(["/bin/true"], annotations={PREFIX + name: "1"}, cluster={"CLUSTER_HOST": "10.77.0.99"})
            with pytest.raises(InvalidArgument, match=reason):
                await slurm.create_container(spec)
    assert bench.containers_kept() == []


@pytest.mark.parametrize("user", USERS)
async def test_a_line_for_a_shell_runs_whole_and_inside_of_the_container(bench: Bench, user: str) -> None:
    words = ["sleep", "0", "&&", "ls", "-d", "/var/t*l", "&&", "echo", "$TOOL;", "pwd"]
    spec = bench.spec(words[:4], words[4:], user=user, image=TOOL, env={"JOB_SHELL": "true"})
    assert await output_of(bench, spec) == sorted(["/var/tool", "of the image", "/var/tool"])


@pytest.mark.parametrize("user", USERS)
async def test_without_a_shell_the_same_words_are_words(bench: Bench, user: str) -> None:
    spec = bench.spec(["echo", "0", "&&", "ls"], ["$TOOL"], user=user, image=TOOL)
    assert await output_of(bench, spec) == ["0 && ls $TOOL"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("args", "printed"),
    [((), ["<$HOME>", "<a b>", "in /var/tool, TOOL=of the image"]), (("$x", "", "'"), ["<$x>", "<'>", "<>"])],
)
async def test_the_images_entrypoint_command_environment_and_working_directory_are_the_defaults(
    bench: Bench, user: str, args: tuple[str, ...], printed: list[str]
) -> None:
    lines = await output_of(bench, bench.spec((), args, user=user, image=TOOL))
    assert lines == sorted({"in /var/tool, TOOL=of the image", *printed})


async def test_the_pods_own_working_directory_and_environment_win_over_the_images(bench: Bench) -> None:
    spec = bench.spec((), ("x",), image=TOOL, working_dir="/tmp", env={"TOOL": "of the pod"})
    assert await output_of(bench, spec) == ["<x>", "in /tmp, TOOL=of the pod"]


@pytest.mark.parametrize(
    ("prerun", "code", "words"),
    [
        ("exit 3", 3, "code 3"),
        ("set -e\ncat /no/such/file\ntouch ~/never", 1, "No such file"),
        ("if true; then", 2, "syntax error"),
        ("set -u; echo $NOT_THERE", 1, "NOT_THERE"),
        ("bash -c 'kill -9 $$'", 137, "code 137"),
        ("kill -9 $$", 137, ""),
        ("exec false", 1, ""),
        ("exec true", 1, ""),
    ],
)
async def test_a_prerun_that_fails_in_any_way_fails_the_container_with_its_own_reason(
    bench: Bench, prerun: str, code: int, words: str
) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "container"], cluster={"CLUSTER_CONFIG": prerun})
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        report = await bench.report(spec.id, Phase.EXITED)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b""
        await slurm.remove_container(spec.id)
    assert (report.exit_code, report.reason) == (code, "PrerunFailed")
    assert words in report.message


# -- MPI ---------------------------------------------------------------------------------------------------------------

RANK = re.compile(r"rank (\d) of (\d) on (cn\d), sum (\d+)")
SPREAD = {"JOB_NUM_NODES": "2", "JOB_NUM_TASKS_NODE": "2", "JOB_CUSTOM_CONFIG": "--time=5"}


def mpi_spec(bench: Bench, *args: str, user: str = "alice", **variables: str) -> ContainerSpec:
    """A container of the MPI image."""
    image = f"multicri/docker-repository.{bench.bed.push_mpi_image()}"
    return bench.spec((), args, user=user, image=image, cluster={"MPI_VERSION": "5.0.7", **SPREAD, **variables})


def processes(bench: Bench) -> set[str]:
    """What alice runs on the compute nodes."""
    hosts = ("cn1", "cn2")
    running = {host: bench.bed.cluster.run(host, ["pgrep", "-u", "alice", "-a"]).stdout for host in hosts}
    return {f"{host} {line}" for host in hosts for line in running[host].splitlines()}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("flags", ["", "--bind-to none"], ids=["srun", "mpirun"])
async def test_an_mpi_job_has_its_ranks_on_two_nodes(bench: Bench, flags: str, user: str) -> None:
    lines = await output_of(bench, mpi_spec(bench, user=user, MPI_FLAGS=flags))
    found = [RANK.fullmatch(line) for line in lines]
    ranks = [match.groups() for match in found if match]
    assert [(rank, size, total) for rank, size, _, total in ranks] == [(str(n), "4", "10") for n in range(4)]
    assert sorted(host for _, _, host, _ in ranks) == ["cn1", "cn1", "cn2", "cn2"]


@pytest.mark.parametrize("version", ["1.10.2", "5.0.7"])
async def test_the_number_of_ranks_may_be_asked_for_in_mpiruns_words(bench: Bench, version: str) -> None:
    none = {"JOB_NUM_NODES": "", "JOB_NUM_TASKS_NODE": ""}
    lines = await output_of(bench, mpi_spec(bench, MPI_VERSION=version, MPI_FLAGS="-np 2", **none))
    assert [line.partition(" on ")[0] for line in lines] == ["rank 0 of 2", "rank 1 of 2"]


@pytest.mark.parametrize("flags", ["", "--bind-to none"], ids=["srun", "mpirun"])
async def test_a_ranks_exit_code_is_the_containers(bench: Bench, flags: str) -> None:
    async with bench.adapter() as slurm:
        spec = mpi_spec(bench, "7", MPI_FLAGS=flags)
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        report = await bench.report(spec.id, Phase.EXITED)
        await slurm.remove_container(spec.id)
    assert report.exit_code == 7


@pytest.mark.parametrize("grace_period_s", [30, 0])
@pytest.mark.parametrize("flags", ["", "--bind-to none"], ids=["srun", "mpirun"])
async def test_stopping_an_mpi_job_reaches_its_ranks_on_every_node(
    bench: Bench, flags: str, grace_period_s: int
) -> None:
    script = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    before = processes(bench)
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", script], cluster={"MPI_VERSION": "5.0.7", "MPI_FLAGS": flags, **SPREAD})
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        seen = b""
        async for piece in slurm.output(spec.id, OutputStream.STDOUT, 0):
            seen += piece
            if seen.count(b"ready\n") == 4:
                break
        await slurm.stop_container(spec.id, grace_period_s)
        stdout = await everything(slurm, spec.id, OutputStream.STDOUT)
        assert processes(bench) <= before
        await slurm.remove_container(spec.id)
    told = stdout.count(b"told\n")
    if grace_period_s:  # mpirun does not wait for the last words of ranks on other nodes
        assert told >= (2 if flags else 4)
    else:
        assert told == 0


async def test_a_way_to_start_ranks_that_the_cluster_has_not_is_refused_with_those_that_it_has(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/true"], annotations={f"{PREFIX}mpi": "openmpi"})
        with pytest.raises(FailedPrecondition, match="offers cray_shasta, none, pmi2, pmix, pmix_v5"):
            await slurm.create_container(spec)
    assert bench.containers_kept() == []
