"""Who starts the ranks of an MPI job."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicri_slurm.mpi import Launcher, Mpi, launcher, read_flags, types_named
from multicri_slurm.runtimes import Container, Runtime
from multicri_slurm.script import ContainerScript

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument

NEWER = (
    "MPI plugin types are...",
    "\tnone",
    "\tpmix",
    "\tpmi2",
    "specific pmix plugin versions available: pmix_v4,pmix_v5",
)
OLDER = ("srun: MPI types are...", "srun: pmi2", "srun: none")
PMIX = frozenset({"none", "pmi2", "pmix", "pmix_v5"})


def test_the_types_of_srun_are_read_whatever_its_version() -> None:
    assert types_named(NEWER) == {"none", "pmix", "pmi2", "pmix_v4", "pmix_v5"}
    assert types_named(OLDER) == {"pmi2", "none"}
    assert types_named(("srun: error: Unable to open plugin.",)) == frozenset()


@pytest.mark.parametrize(
    ("mpi", "offered", "words"),
    [
        (Mpi(version="5.0.7"), PMIX, "srun --mpi=pmix --kill-on-bad-exit=1"),
        (Mpi(version="5.0.7"), {"pmix_v4"}, "srun --mpi=pmix_v4 --kill-on-bad-exit=1"),
        (Mpi(version="4", flags=("-np", "2")), PMIX, "srun --mpi=pmix --kill-on-bad-exit=1 --ntasks=2"),
        (Mpi(version="1.10.2", flags=("-np", "2")), PMIX, "mpirun -np 2"),
        (Mpi(version="5", flags=("--bind-to", "core")), PMIX, "mpirun --bind-to core"),
        (Mpi(version="5"), {"none", "pmi2"}, "mpirun"),
        (Mpi(starter="pmi2"), PMIX, "srun --mpi=pmi2 --kill-on-bad-exit=1"),
        (Mpi(starter="mpirun", version="5"), PMIX, "mpirun"),
    ],
)
def test_pmix_is_preferred_where_the_cluster_has_it_and_the_pod_can_use_it(
    mpi: Mpi, offered: frozenset[str], words: str
) -> None:
    assert " ".join(launcher(mpi, offered, ()).words) == words


def test_mpirun_stands_in_for_srun_unless_somebody_has_chosen() -> None:
    assert launcher(Mpi(version="5", flags=("-np", "2")), PMIX, ()).instead == ("mpirun", "-np", "2")
    assert launcher(Mpi(starter="pmix"), PMIX, ()).instead == ()
    assert launcher(Mpi(starter="mpirun"), PMIX, ()) == Launcher(words=("mpirun",))


def test_ranks_get_the_cpus_that_the_job_has_for_each_task() -> None:
    assert "--cpus-per-task=3" in launcher(Mpi(version="5"), PMIX, ["--cpus-per-task=3"]).words


def test_a_type_that_the_cluster_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(FailedPrecondition, match=r"/mpi=pmix, .*: the cluster.s srun offers none, pmi2"):
        launcher(Mpi(starter="pmix"), {"pmi2", "none"}, ())


def test_the_number_of_ranks_is_asked_of_slurm_too() -> None:
    assert Mpi(flags=("--bind-to", "core", "-np", "12")).job_options() == ("--ntasks=12",)
    assert Mpi(flags=("--bind-to", "core")).job_options() == ()


def test_flags_are_read_as_words() -> None:
    text = "-np 2 --mca btl '^tcp,self' --mca btl_tcp_if_include 10.0.0.0/8,192.168.0.0/16 --map-by ppr:2:node -x PATH"
    assert read_flags(text) == tuple(text.replace("'", "").split())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("'", 'MPI_FLAGS="\'": No closing quotation'),
        ("-np", "-np: '' is not a value that it takes here"),
        ("-np x", "-np: 'x' is not a value"),
        ("sh -c id", "'sh' is not among the flags that pods may use: n, np, "),
        ("-np 2 sh", "'sh' is not among"),
        ("--mca plm_rsh_agent /x", "--mca: 'plm_rsh_agent' is not a value"),
        ("--mca mca_base_component_path /x", "--mca: 'mca_base_component_path' is not a value"),
        ("--mca pml_monitoring_filename /home/x", "--mca: '/home/x' is not a value"),
        ("-x LD_PRELOAD=/x", "-x: 'LD_PRELOAD=/x' is not a value"),
        ("--prefix /x", "'--prefix' is not among"),
        ("---np 2", "'---np' is not among"),
    ],
)
def test_a_flag_that_would_run_or_load_something_outside_of_the_container_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_flags(text)
    assert reason in str(caught.value)


_WORDS = st.sampled_from(["-np", "2", "--mca", "btl", "x", ",", ";", "$(id)", "sh", "-x"])


@given(st.one_of(st.text(max_size=60), st.lists(_WORDS).map(" ".join)))
def test_no_text_becomes_a_word_that_is_neither_a_flag_nor_its_value(text: str) -> None:
    try:
        words = read_flags(text)
    except InvalidArgument:
        return
    assert all(word.isprintable() and not set(word) & set(";$`|&<>'\"\\ ") for word in words)


def script_in(directory: Path, **programs: str) -> tuple[list[str], dict[str, str]]:
    """How to run a job's script with srun and mpirun in this directory, where these programs come first in PATH."""
    script = ContainerScript(
        directory=str(directory),
        launcher=launcher(Mpi(version="5", flags=("-np", "2")), PMIX, ()),
        container=Container(
            runtime=Runtime(kind="apptainer"), image="/i.sif", command=("/app",), args=(), working_dir="", mpi=True
        ),
    )
    (directory / "bin").mkdir()
    for name, text in programs.items():
        (directory / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (directory / "bin" / name).chmod(0o755)
    path = f"{directory}/bin:/usr/bin:/bin"
    return ["bash", "-c", script.render()], {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}


def test_where_a_step_hangs_with_pmix_mpirun_starts_the_ranks(tmp_path: Path) -> None:
    argv, env = script_in(tmp_path, timeout="exit 124  # as if srun had hung", mpirun='echo "ranks: $*"')
    subprocess.run(argv, env=env, check=True, timeout=60)
    assert (tmp_path / "stdout").read_text().startswith("ranks: -np 2 apptainer --quiet exec ")
    assert "mpirun starts the ranks" in (tmp_path / "stderr").read_text()


def test_a_stop_does_not_wait_for_a_step_that_hangs(tmp_path: Path) -> None:
    argv, env = script_in(tmp_path, timeout='echo; exec 1>&2; read -r <> "$0.fifo"', mpirun="echo never")
    os.mkfifo(tmp_path / "bin/timeout.fifo")
    with subprocess.Popen(argv, env=env, start_new_session=True) as job:
        while not ((tmp_path / "trial").exists() and (tmp_path / "trial").read_text()):  # it tries, with its traps set
            time.sleep(0.02)
        job.terminate()
        assert job.wait(timeout=60) == 143
        (tmp_path / "bin/timeout.fifo").write_text("go\n")
    assert "reason=Cancelled\n" in (tmp_path / "exit").read_text()
    assert not (tmp_path / "stdout").read_text()
