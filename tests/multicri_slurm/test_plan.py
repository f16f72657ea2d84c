"""What becomes of a pod's words, whoever has a say in them."""

from collections.abc import Mapping

import pytest
from multicri_slurm.annotations import PREFIX
from multicri_slurm.plan import Plan, plan
from multicri_slurm.profiles import read_profiles

from multicri_proxy.api.adapter import ContainerSpec, Pod, Resources
from multicri_proxy.api.errors import InvalidArgument, PermissionDenied
from multicri_proxy.api.ids import ContainerId, ImageId, PodSandboxId
from multicri_proxy.api.image import Image

ACCOUNT = {"CLUSTER_HOST": "h", "CLUSTER_USERNAME": "u", "CLUSTER_PASSWORD": "p"}
LINE = ("sleep", "60", "&&", "ls", "/")


def planned(
    command: tuple[str, ...] = LINE,
    args: tuple[str, ...] = (),
    settings: dict[str, object] | None = None,
    annotations: dict[str, str] | None = None,
    resources: Resources | None = None,
    pod_resources: Resources | None = None,
    account: Mapping[str, str] = ACCOUNT,
    **env: str,
) -> Plan:
    pod = Pod(
        sandbox_id=PodSandboxId("s"),
        name="pod",
        namespace="default",
        uid="u",
        attempt=0,
        labels={},
        annotations={PREFIX + name: value for name, value in (annotations or {}).items()},
        resources=pod_resources or Resources(),
    )
    spec = ContainerSpec(
        id=ContainerId("c" * 64),
        pod=pod,
        name="main",
        attempt=0,
        image=Image(id=ImageId("i"), source="docker://x", names=()),
        command=command,
        args=args,
        env=tuple((name, value.encode()) for name, value in {**account, **env}.items()),
        working_dir="",
        mounts=(),
        resources=resources or Resources(),
    )
    return plan(spec, read_profiles(settings or {}, ()).of_pod(pod))


def test_words_are_words_unless_a_shell_is_asked_for() -> None:
    assert planned().command == LINE
    joined = planned(LINE[:2], LINE[2:], JOB_SHELL="true")
    assert (joined.command, joined.args) == (("/bin/sh", "-c"), ("sleep 60 && ls /",))


def test_a_profile_may_ask_for_a_shell_and_a_pod_may_refuse_it() -> None:
    profile: dict[str, object] = {"job_shell": True}
    assert planned(settings=profile).args == ("sleep 60 && ls /",)
    assert planned(settings=profile, JOB_SHELL="false").command == LINE
    assert planned((), settings=profile).command == ()


def test_a_shell_without_a_line_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="JOB_SHELL='true': must go with a command or args"):
        planned((), JOB_SHELL="true")


def test_variables_are_heard_first_then_annotations_then_resources_then_the_profile() -> None:
    made = planned(
        settings={"job_options_default": "--time=1 --qos=low --mem=1G --partition=d --nice=5"},
        annotations={"time": "2", "partition": "a", "account": "a"},
        resources=Resources(cpu_millicores=2000, memory_bytes=2 << 30),
        JOB_QUEUE="v",
        JOB_CUSTOM_CONFIG="--account=c",
    )
    assert sorted(made.options) == [
        "--account=c",
        "--cpus-per-task=2",
        "--mem=2048M",
        "--nice=5",
        "--partition=v",
        "--qos=low",
        "--time=2",
    ]


def test_resources_are_left_alone_where_the_profile_makes_jobs_of_several_nodes() -> None:
    made = planned(settings={"job_options_default": "--nodes=2"}, resources=Resources(memory_bytes=1 << 30))
    assert made.options == ("--nodes=2",)


def test_an_annotation_alone_makes_an_mpi_job() -> None:
    assert planned().mpi is None
    made = planned(annotations={"mpi": "mpirun"}, MPI_FLAGS="-np 3")
    assert made.mpi is not None
    assert made.mpi.starter == "mpirun"
    assert made.options == ("--ntasks=3",)


ALLOCATION = {"pod-model": "allocation-per-pod"}


def test_an_allocation_has_what_its_pod_needs_whatever_the_container_does() -> None:
    pod = Resources(cpu_millicores=2500, memory_bytes=96 << 20)
    own = Resources(cpu_millicores=500, memory_bytes=32 << 20)
    planned_options = planned(resources=own, pod_resources=pod, annotations=ALLOCATION).options
    assert planned_options == ("--nodes=1", "--ntasks=1", "--cpus-per-task=3", "--mem=96M")
    wins = planned(pod_resources=pod, annotations={**ALLOCATION, "mem": "1G"}).options
    assert wins == ("--nodes=1", "--ntasks=1", "--mem=1G", "--cpus-per-task=3")
    many = {"job_options_default": "--nodes=4", "pod_model": "allocation-per-pod"}
    assert planned(settings=many).options == ("--nodes=1", "--ntasks=1")
    assert planned(settings=many, annotations={"pod-model": "job-per-container"}).options == ("--nodes=4",)


@pytest.mark.parametrize(
    ("annotations", "env", "reason"),
    [
        ({"pod-model": "both"}, {}, r"pod-model='both': must be one of job-per-container, allocation-per-pod"),
        (ALLOCATION, {"JOB_GPU": "gpu"}, r"JOB_GPU: .* annotation slurm\.multicri\.io/gres"),
        (ALLOCATION, {"MPI_VERSION": "5"}, "MPI_VERSION: .* leave it out, or choose job-per-container"),
        (ALLOCATION, {"JOB_CUSTOM_CONFIG": "--mem=1G"}, "JOB_CUSTOM_CONFIG: "),
        ({**ALLOCATION, "nodes": "2"}, {}, "nodes: with the pod model allocation-per-pod a pod has one node"),
        ({**ALLOCATION, "mpi": "pmix"}, {}, "mpi: with the pod model"),
    ],
)
def test_what_an_allocation_cannot_have_is_refused_by_name(
    annotations: dict[str, str], env: dict[str, str], reason: str
) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        planned(annotations=annotations, **env)


def test_a_way_back_is_had_by_who_asks_for_it_where_it_may_lead_somewhere() -> None:
    leads: dict[str, object] = {"way_back": [{"to": "10.96.0.0/12", "ports": [443]}]}
    assert planned(settings=leads, annotations={"way-back": "true"}).way_back
    assert not planned(settings=leads, annotations={"way-back": "false"}).way_back
    assert not planned(settings=leads).way_back
    with pytest.raises(PermissionDenied, match=r"slurm.multicri.io/way-back: slurm.way_back allows no destinations"):
        planned(annotations={"way-back": "true"})
    with pytest.raises(InvalidArgument, match="way-back='maybe': must be true or false"):
        planned(settings=leads, annotations={"way-back": "maybe"})
    rest = {"rest_url": "https://h", "shared_directory": "/s", "user": "u", "token_file": "/t", "uid": 1, "gid": 1}
    with pytest.raises(InvalidArgument, match=r"way-back: it leads over SSH, and slurm is reached by REST: leave it"):
        planned(settings=leads | rest, annotations={"way-back": "true"}, account={})


def test_no_option_of_sbatch_comes_of_what_is_not_for_it() -> None:
    leads: dict[str, object] = {"way_back": [{"to": "10.96.0.0/12"}]}
    assert planned(settings=leads, annotations={"way-back": "true", "mpi": "pmix"}).options == planned().options
