"""A pod's annotations, its resources, and who is heard when several say something."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicri_slurm.annotations import PREFIX, Annotations, read_annotations
from multicri_slurm.job_options import ALLOWED, REFUSED
from multicri_slurm.precedence import asks_for_gpus, settled, values_of
from multicri_slurm.resources import resource_options

from multicri_proxy.api.adapter import Resources
from multicri_proxy.api.errors import InvalidArgument

GIB = 1024**3


def read(**annotations: str) -> Annotations:
    return read_annotations({PREFIX + name.replace("_", "-"): value for name, value in annotations.items()})


def test_annotations_become_sbatch_options_by_their_long_names() -> None:
    annotations = read(
        partition="gpu", account="lab", qos="high", time="1-00:00:00", gres="gpu:a100:2", constraint="a100&nvme",
        nodes="2", ntasks="8", ntasks_per_node="4", cpus_per_task="2", mem="4G", reservation="night", mpi="pmix",
    )  # fmt: skip
    assert sorted(annotations.options()) == [
        "--account=lab",
        "--constraint=a100&nvme",
        "--cpus-per-task=2",
        "--gres=gpu:a100:2",
        "--mem=4G",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--ntasks=8",
        "--partition=gpu",
        "--qos=high",
        "--reservation=night",
        "--time=1-00:00:00",
    ]
    assert annotations.mpi == "pmix"


def test_an_option_whose_value_may_be_left_out_takes_true_for_it() -> None:
    assert read(exclusive="true").options() == ("--exclusive",)
    assert read(exclusive="user").options() == ("--exclusive=user",)


def test_of_thousands_of_unknown_annotations_a_few_are_explained() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_annotations({f"{PREFIX}nodez{number}": "" for number in range(3000)})
    assert str(caught.value).count("is slurm.multicri.io/nodes meant?") == 5
    assert "2995 more" in str(caught.value)


def test_annotations_of_others_and_those_that_others_read_are_left_alone() -> None:
    others = {"kubernetes.io/config.source": "api", f"{PREFIX}cluster": "hpc", f"{PREFIX}volume-name.data": "x"}
    assert read_annotations(others) == Annotations()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("time", "soon", "annotation slurm.multicri.io/time='soon': must be minutes, [hours:]minutes:seconds or"),
        ("mem", "1 GB", "slurm.multicri.io/mem='1 GB': must be a whole number with K, M, G or T after it"),
        ("partition", "a\n#SBATCH --uid=0", "slurm.multicri.io/partition="),
        ("nodes", "", "slurm.multicri.io/nodes='': must be a whole number, or least-most"),
        ("exclusive", "no", "exclusive='no': must be one of user, mcs, topo, exclusive, or true"),
        ("mpi", "pmix --x", "slurm.multicri.io/mpi='pmix --x': must be a type that srun --mpi=list names"),
        ("array", "1-10", "slurm.multicri.io/array: is not allowed: a container is exactly one job"),
        ("output", "/x", "slurm.multicri.io/output: is not allowed: the job's output is read from files of its own"),
        ("mail-user", "a@b", "slurm.multicri.io/mail-user: there is none; a container can say it in JOB_CUSTOM_CONFIG"),
        ("partitoin", "x", "slurm.multicri.io/partitoin: there is none; is slurm.multicri.io/partition meant?"),
        ("cpusPerTask", "1", "there is none; is slurm.multicri.io/cpus-per-task meant?"),
        ("cpus_per_task", "1", "there is none; is slurm.multicri.io/cpus-per-task meant?"),
        ("zzzzzz", "1", "slurm.multicri.io/zzzzzz: there is none; there are account, begin, "),
    ],
)
def test_an_annotation_that_is_wrong_is_named_with_what_it_wants(name: str, value: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_annotations({PREFIX + name: value})
    assert reason in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(time="x", nodes="y", array="1")
    assert str(caught.value).count(PREFIX) == 3


@given(
    st.dictionaries(
        st.one_of(st.sampled_from([*ALLOWED, *REFUSED, "mpi"]), st.text(max_size=20)), st.text(max_size=20), max_size=3
    )
)
def test_no_annotation_yields_an_unlisted_option_or_a_second_line(annotations: dict[str, str]) -> None:
    try:
        options = read_annotations({PREFIX + name: value for name, value in annotations.items()}).options()
    except InvalidArgument as error:
        assert len(str(error)) < 5000
        return
    for option in options:
        match = re.fullmatch(r"--([a-z-]+)(=[!-~]+)?", option, re.ASCII)
        assert match is not None
        assert match[1] in ALLOWED


def test_who_comes_first_is_heard() -> None:
    assert settled(["--time=1"], ["--time=2", "--qos=high"], ["--qos=low"]) == ("--time=1", "--qos=high")


def test_of_one_place_the_last_word_counts_as_sbatch_has_it() -> None:
    assert settled(["--time=1", "--nice", "--time=2"]) == ("--time=2", "--nice")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("--mem-per-cpu=1G", "--mem=4G"),
        ("--mem=4G", "--mem-per-gpu=1G"),
        ("--cpus-per-gpu=4", "--cpus-per-task=2"),
        ("--gres=gpu:2", "--gpus=1"),
        ("--gres=lustre,gpu:a100:1", "--gpus-per-node=1"),
        ("--gpus=1", "--gres=gpu:1"),
    ],
)
def test_options_that_say_the_same_thing_in_two_ways_are_one_subject(first: str, second: str) -> None:
    assert settled([first], [second]) == (first,)


def test_a_gres_that_is_no_gpu_does_not_settle_the_gpus() -> None:
    assert settled(["--gres=lustre:1"], ["--gpus=1"]) == ("--gres=lustre:1", "--gpus=1")


@pytest.mark.parametrize(
    ("option", "gpus"),
    [("--gres=gpu", True), ("--gres=lustre,gpu:1", True), ("--gpus-per-task=1", True), ("--gres=gpuless:1", False)],
)
def test_a_job_with_gpus_is_known(option: str, gpus: bool) -> None:
    assert asks_for_gpus(["--time=1", option]) is gpus


_OPTIONS = st.lists(st.builds(lambda name: f"--{name}=1", st.sampled_from(sorted(ALLOWED))), max_size=6)


@given(_OPTIONS, _OPTIONS)
def test_what_is_settled_first_is_never_changed_by_what_follows(first: list[str], second: list[str]) -> None:
    alone, both = settled(first), settled(first, second)
    assert both[: len(alone)] == alone
    assert len(values_of(both)) == len(both)


@pytest.mark.parametrize(
    ("resources", "options"),
    [
        (Resources(), ()),
        (Resources(cpu_millicores=2500, cpu_request_millicores=100), ("--cpus-per-task=3",)),
        (Resources(cpu_request_millicores=100), ("--cpus-per-task=1",)),
        (Resources(memory_bytes=GIB), ("--mem=1024M",)),
        (Resources(memory_bytes=GIB + 1), ("--mem=1025M",)),
        (Resources(cpu_millicores=1000, memory_bytes=1), ("--cpus-per-task=1", "--mem=1M")),
    ],
)
def test_a_containers_resources_are_rounded_up(resources: Resources, options: tuple[str, ...]) -> None:
    assert resource_options(resources, ()) == options


@pytest.mark.parametrize("chosen", ["--nodes=2", "--nodes=1-4", "--ntasks=4", "--ntasks-per-node=2"])
def test_one_containers_resources_say_nothing_of_a_job_of_several_tasks_or_nodes(chosen: str) -> None:
    assert resource_options(Resources(cpu_millicores=4000, memory_bytes=GIB), [chosen]) == ()
    assert resource_options(Resources(cpu_millicores=4000), [chosen.partition("=")[0] + "=1"]) != ()
