"""Job scripts: each kind against its golden file, and what no pod can do to one.

Write the golden files anew with UPDATE_GOLDEN=1, and read the difference.
"""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multicri_slurm.allocation_script import AllocationScript, step_files
from multicri_slurm.mpi import Launcher
from multicri_slurm.runtimes import Container, ImageConfig, Runtime, container_words
from multicri_slurm.script import ContainerScript, JobScript, comment_of, quoted, render

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument

GOLDEN = Path(__file__).parent / "golden"
APPTAINER = Runtime(kind="apptainer")
CHARLIECLOUD = Runtime(kind="charliecloud", options=frozenset({"--set-env0", "--write-fake"}))
OLD_CHARLIECLOUD = Runtime(kind="charliecloud", options=frozenset({"--set-env", "--no-home"}))
DIRECTORY = "/home/alice/multi-cri/5a4d/c0ffee"


def container(runtime: Runtime = APPTAINER, command: tuple[str, ...] = ("/bin/true",), **more: object) -> Container:
    image = "/home/alice/multi-cri/images/0123" + (".sif" if runtime.kind != "charliecloud" else "")
    values: dict[str, object] = {"image": image, "args": (), "working_dir": ""} | more
    return Container(runtime=runtime, command=command, **values)  # type: ignore[arg-type]


def job(of: Container, options: tuple[str, ...] = (), **more: object) -> JobScript:
    script = ContainerScript(directory=DIRECTORY, container=of, **more)  # type: ignore[arg-type]
    return JobScript(job_name="multicri-c0ffee", comment="default/pod/main", options=options, script=script)


JOBS = {
    "stdin-once": job(container(), stdin=True, stdin_once=True),
    "apptainer": job(container(args=("it's", "a\nb", "$(id)"))),
    "apptainer-image-command": job(container(command=(), args=("x",), home="/var", working_dir="/usr")),
    "charliecloud": job(
        container(
            CHARLIECLOUD,
            command=(),
            config=ImageConfig(entrypoint=("/e", "-x"), cmd=("c",), working_dir="/w", has_environment=True),
        )
    ),
    "charliecloud-old": job(container(OLD_CHARLIECLOUD, config=ImageConfig(has_environment=True))),
    "apptainer-image-config": job(
        container(
            command=(),
            config=ImageConfig(
                entrypoint=("/bin/sh", "-c", 'echo "$@"', "name"), cmd=("a b", "$HOME"), working_dir="/w"
            ),
        )
    ),
    "shell": job(container(command=("/bin/sh", "-c"), args=("sleep 60 && ls /",))),
    "mpi-srun": job(
        container(command=("/app/solve",), mpi=True),
        options=("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=2"),
        launcher=Launcher(
            words=("srun", "--mpi=pmix", "--kill-on-bad-exit=1", "--cpus-per-task=2"),
            mpi_type="pmix",
            instead=("mpirun", "-np", "4"),
        ),
    ),
    "mpi": job(
        container(command=("/app/solve",), mpi=True),
        options=("--nodes=2", "--ntasks=8"),
        launcher=Launcher(words=("mpirun", "-np", "8", "--mca", "btl", "tcp,self")),
    ),
    "measured": job(container(), measured="job"),
    "mpi-measured": job(
        container(command=("/app/solve",), mpi=True),
        launcher=Launcher(words=("srun", "--mpi=pmix"), mpi_type="pmix"),
        measured="job",
    ),
    "everything": job(
        container(args=("--flag",), gpu=True, working_dir="/work"),
        has_prerun=True,
        passed=("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
        options=("--partition=gpu", "--gres=gpu:a100:2", "--nodes=1", "--time=1-00:00:00", "--exclusive"),
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_script_is_its_golden_file(name: str) -> None:
    golden, text = GOLDEN / f"{name}.sh", render(JOBS[name])
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    subprocess.run(["bash", "-n"], input=text.encode(), check=True)


def test_an_allocation_and_a_step_are_their_golden_files() -> None:
    directory = "/home/alice/multi-cri/5a4d/a110"
    allocation = JobScript(
        job_name="multicri-a110",
        comment="default/pod/allocation",
        options=("--nodes=1", "--ntasks=1", "--cpus-per-task=3", "--mem=96M"),
        script=AllocationScript(directory=directory, idle_s=3600),
    )
    script = ContainerScript(directory=DIRECTORY, container=container(args=("it's",)), has_prerun=True)
    texts = {"allocation.sh": render(allocation)}
    texts |= {f"allocation-{name}": text for name, text in step_files("web", 64, script).items()}
    for name, text in texts.items():
        if os.environ.get("UPDATE_GOLDEN"):
            (GOLDEN / name).write_text(text)
        assert text == (GOLDEN / name).read_text()
        subprocess.run(["bash", "-n"], input=text.encode(), check=True)


@given(st.text(max_size=80))
def test_no_container_name_adds_a_word_to_srun(name: str) -> None:
    script = ContainerScript(directory=DIRECTORY, container=container())
    ours, theirs = (step_files(one, None, script)["step.sh"] for one in ("web", name))
    [before, after] = ours.split("web")
    assert re.fullmatch(re.escape(before) + "[A-Za-z0-9._/-]+" + re.escape(after), theirs)


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30), min_size=1, max_size=5))
def test_bash_reads_every_word_exactly_and_on_one_line(words: list[str]) -> None:
    line = " ".join(map(quoted, words))
    assert not set(line) & set("\n\r")
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


_free = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(_free, _free, _free, st.lists(_free, max_size=3))
def test_nothing_of_a_pod_adds_a_line_to_a_script(namespace: str, pod: str, name: str, args: list[str]) -> None:
    plain = job(container())
    hostile = JobScript(
        job_name=plain.job_name,
        comment=comment_of(namespace, pod, name),
        options=(),
        script=replace(plain.script, container=container(args=tuple(args))),
    )
    ours, theirs = render(plain).split("\n"), render(hostile).split("\n")
    assert len(ours) == len(theirs)
    assert [line for line in theirs if line.startswith("#SBATCH")][2:] == [
        line for line in ours if line.startswith("#SBATCH")
    ][2:]
    assert "\r" not in "".join(theirs)


@given(_free, _free, _free)
def test_a_comment_has_harmless_characters_only(namespace: str, pod: str, name: str) -> None:
    comment = comment_of(namespace, pod, name)
    assert comment.isascii()
    assert len(comment) <= 200
    assert comment.count("/") == 2
    assert not set(comment) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/-")


@pytest.mark.parametrize("runtime", [APPTAINER, CHARLIECLOUD])
def test_an_image_and_a_pod_that_both_name_no_command_are_refused(runtime: Runtime) -> None:
    with pytest.raises(FailedPrecondition, match="names no command"):
        container_words(container(runtime, command=(), config=ImageConfig()))


@pytest.mark.parametrize("runtime", [APPTAINER, CHARLIECLOUD])
def test_the_pods_working_directory_is_heard_before_the_images(runtime: Runtime) -> None:
    config = ImageConfig(working_dir="/of-the-image")
    assert "/of-the-image" in " ".join(container_words(container(runtime, config=config)))
    both = " ".join(container_words(container(runtime, config=config, working_dir="/of-the-pod")))
    assert "/of-the-pod" in both
    assert "/of-the-image" not in both


def test_a_working_directory_must_be_absolute() -> None:
    with pytest.raises(InvalidArgument, match="absolute"):
        container_words(container(working_dir="x"))


@pytest.mark.parametrize("runtime", [APPTAINER, CHARLIECLOUD])
def test_command_and_args_follow_kubernetes_rules(runtime: Runtime) -> None:
    config = ImageConfig(entrypoint=("e",), cmd=("c",))

    def words(command: tuple[str, ...], args: tuple[str, ...]) -> tuple[str, ...]:
        of = container(runtime, command=command, args=args, config=config)
        line = container_words(of)
        return line[line.index(of.image) + (2 if runtime is CHARLIECLOUD else 1) :]

    assert words((), ()) == ("e", "c")
    assert words((), ("a",)) == ("e", "a")
    assert words(("x",), ()) == ("x",)
    assert words(("x",), ("a",)) == ("x", "a")
