"""Job scripts: each kind against its golden file, and what no pod can do to one.

Write the golden files anew with UPDATE_GOLDEN=1, and read the difference.
"""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multicri_slurm.runtimes import Container, ImageConfig, Runtime, container_words
from multicri_slurm.script import JobScript, comment_of, quoted, render

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


def job(of: Container, **more: object) -> JobScript:
    values: dict[str, object] = {"job_name": "multicri-c0ffee", "comment": "default/pod/main", "options": ()} | more
    return JobScript(directory=DIRECTORY, container=of, **values)  # type: ignore[arg-type]


JOBS = {
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
    "mpi": job(
        container(command=("/app/solve",), mpi=True),
        options=("--nodes=2", "--ntasks=8"),
        launcher=("mpirun", "--mca", "btl", "tcp,self", "-x", "A=b c"),
    ),
    "everything": job(
        container(args=("--flag",), gpu=True, working_dir="/work"),
        has_prerun=True,
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


@settings(max_examples=60, deadline=None)
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
        directory=plain.directory,
        options=(),
        container=container(args=tuple(args)),
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


def test_an_entrypoint_that_nobody_knows_is_told() -> None:
    with pytest.raises(FailedPrecondition, match="names no command"):
        container_words(container(CHARLIECLOUD, command=(), config=ImageConfig()))


def test_a_working_directory_must_be_absolute() -> None:
    with pytest.raises(InvalidArgument, match="absolute"):
        container_words(container(working_dir="x"))


def test_charlieclouds_command_follows_kubernetes_rules() -> None:
    config = ImageConfig(entrypoint=("e",), cmd=("c",))

    def words(command: tuple[str, ...], args: tuple[str, ...]) -> tuple[str, ...]:
        line = container_words(container(CHARLIECLOUD, command=command, args=args, config=config))
        return line[line.index("--") + 1 :]

    assert words((), ()) == ("e", "c")
    assert words((), ("a",)) == ("e", "a")
    assert words(("x",), ()) == ("x",)
    assert words(("x",), ("a",)) == ("x", "a")
