"""deploy/examples: their Jobs, in the real cluster, with an image that its registry has."""

from pathlib import Path

import pytest
import yaml
from multicri_slurm.plan import plan
from multicri_slurm.profiles import read_profiles
from slurm_bench import Bench, everything

from multicri_proxy.api.adapter import ContainerSpec, OutputStream, Phase, Resources

pytestmark = pytest.mark.testbed

EXAMPLES = Path(__file__).parents[2] / "deploy/examples"
JOBS = sorted(path.name for path in EXAMPLES.glob("job-slurm-*.yaml"))
CPU = {"1500m": 1500}
MEMORY = {"512Mi": 512 * 1024 * 1024}


def spec_of(bench: Bench, name: str, **more: str) -> ContainerSpec:
    """The container of an example's Job; its account is alice's, and it does not sleep."""
    template = yaml.safe_load((EXAMPLES / name).read_text())["spec"]["template"]
    [container] = template["spec"]["containers"]
    limits = container.get("resources", {}).get("limits", {})
    return bench.spec(
        [word.replace("60", "0") for word in container.get("command", ())],
        env={entry["name"]: entry["value"] for entry in container["env"] if "value" in entry},
        cluster={"JOB_CUSTOM_CONFIG": None, "CLUSTER_CONFIG": "true"},
        annotations=template.get("metadata", {}).get("annotations", {}),
        resources=Resources(cpu_millicores=CPU.get(limits.get("cpu")), memory_bytes=MEMORY.get(limits.get("memory"))),
        **more,  # type: ignore[arg-type]
    )


async def output_of(bench: Bench, spec: ContainerSpec) -> list[str]:
    async with bench.adapter() as slurm:
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        stdout = await everything(slurm, spec.id, OutputStream.STDOUT)
        report = await bench.report(spec.id, Phase.EXITED)
        await slurm.remove_container(spec.id)
    assert report.exit_code == 0
    return stdout.decode().splitlines()


@pytest.mark.parametrize("name", JOBS)
def test_an_example_is_understood(bench: Bench, name: str) -> None:
    assert plan(spec_of(bench, name), read_profiles({}, ()).of_pod(bench.spec().pod))


async def test_multi_cris_batch_example_runs_its_line_whole(bench: Bench) -> None:
    assert "tmp" in await output_of(bench, spec_of(bench, "job-slurm-volume.yaml"))


async def test_multi_cris_mpi_example_runs_its_command_twice(bench: Bench) -> None:
    lines = await output_of(bench, spec_of(bench, "job-slurm-mpi.yaml"))
    assert " ".join(lines).split().count("tmp") == 2  # mpirun gives its ranks a terminal, so that ls prints columns


async def test_the_mpi_example_has_two_ranks_on_each_of_two_nodes(bench: Bench) -> None:
    image = f"multicri/docker.{bench.bed.push_mpi_image()}"
    lines = await output_of(bench, spec_of(bench, "job-slurm-mpi-nodes.yaml", image=image))
    assert sorted(line.split()[5] for line in lines) == ["cn1,", "cn1,", "cn2,", "cn2,"]


async def test_the_gpu_example_sees_its_two_gpus(bench: Bench) -> None:
    assert await output_of(bench, spec_of(bench, "job-slurm-gpu.yaml")) == ["GPUs: 0,1"]
