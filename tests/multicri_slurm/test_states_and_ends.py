"""Slurm's words about jobs, and what they mean for a container."""

import dataclasses

import pytest
from multicri_slurm.answers import (
    facts,
    refusal_of_sbatch,
    sacct_jobs,
    says_no_accounting,
    says_unknown_job,
    scontrol_job,
    squeue_jobs,
)
from multicri_slurm.exits import Ending, code_of_pair, read_exit_file, read_started_file, report_of
from multicri_slurm.states import STATES, state_named

from multicri_proxy.api.adapter import Phase
from multicri_proxy.api.errors import InvalidArgument, MulticriError, ResourceExhausted, Unavailable
from multicri_proxy.api.ids import ContainerId, JobId

BASE_STATES = (
    "PENDING RUNNING SUSPENDED COMPLETED CANCELLED FAILED TIMEOUT NODE_FAIL PREEMPTED BOOT_FAIL DEADLINE OUT_OF_MEMORY"
)
FLAGS = (
    "LAUNCH_FAILED UPDATE_DB REQUEUED REQUEUE_HOLD SPECIAL_EXIT RESIZING CONFIGURING COMPLETING STOPPED RECONFIG_FAIL "
    "POWER_UP_NODE REVOKED REQUEUE_FED RESV_DEL_HOLD SIGNALING STAGE_OUT EXPEDITING "
    "GETENV_FAILED"
)

# As scontrol of Slurm 24.11 prints it, shortened.
SCONTROL = """JobId=4 JobName=multicri-x UserId=alice(2001) GroupId=alice(2001) MCS_label=N/A Priority=1 Nice=0
 Account=lab QOS=normal JobState=FAILED Reason=NonZeroExitCode Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1
 Reboot=0 ExitCode=137:0 RunTime=00:00:00 ReqNodeList=(null) ExcNodeList=(null) NodeList=cn2 BatchHost=cn2
 Command=(null) WorkDir=/home/alice"""


def test_every_state_and_flag_of_slurm_is_in_the_table() -> None:
    assert set(STATES) == set(BASE_STATES.split()) | set(FLAGS.split())


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("PENDING", Phase.QUEUED),
        ("CONFIGURING", Phase.QUEUED),
        ("RUNNING", Phase.RUNNING),
        ("COMPLETING", None),
        ("CANCELLED by 1000", Phase.EXITED),
        ("CANCELLED+", Phase.EXITED),
        ("FAILED+", Phase.EXITED),
        ("OUT_OF_MEMORY", Phase.EXITED),
    ],
)
def test_a_state_is_understood_as_any_program_prints_it(text: str, phase: Phase | None) -> None:
    state = state_named(text)
    assert state is not None
    assert state.phase is phase


def test_a_state_that_is_in_no_table_is_none() -> None:
    assert state_named("MEDITATING") is None
    assert state_named("") is None


def test_squeue_is_read() -> None:
    lines = [
        "7|RUNNING|cn1|lab|multicri-a|None",
        "8|PENDING||(null)|multicri-b|(Nodes: a|b)",
        "9_1|PENDING||a|b|c",
        "x",
    ]
    jobs = squeue_jobs(lines)
    assert jobs.keys() == {7, 8}
    assert (jobs[JobId(7)].state, jobs[JobId(7)].reason, jobs[JobId(7)].nodes) == ("RUNNING", "", "cn1")
    assert (jobs[JobId(8)].reason, jobs[JobId(8)].cluster_account) == ("(Nodes: a|b)", "")


def test_sacct_is_read() -> None:
    jobs = sacct_jobs(["26|CANCELLED by 1001|0:15|None assigned|lab|multicri-a", "22.batch|FAILED|3:0|cn1||batch"])
    assert jobs.keys() == {26}
    assert (jobs[JobId(26)].state, jobs[JobId(26)].exit_pair, jobs[JobId(26)].nodes) == (
        "CANCELLED by 1001",
        "0:15",
        "",
    )


def test_scontrol_is_read() -> None:
    job = scontrol_job(SCONTROL)
    assert job is not None
    assert dataclasses.asdict(job) == {
        "job_id": 4,
        "name": "multicri-x",
        "state": "FAILED",
        "reason": "NonZeroExitCode",
        "nodes": "cn2",
        "cluster_account": "lab",
        "exit_pair": "137:0",
    }
    assert scontrol_job("slurm_load_jobs error: Invalid job id specified") is None


def test_only_marked_lines_are_an_answer() -> None:
    answer = facts(b"Welcome to HPC!\nhome=/evil\nmulticri:home=/home/a\nmulticri:log=a=b\nmulticri:log=\nmulticri:x\n")
    assert answer == {"home": ("/home/a",), "log": ("a=b", "")}


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            Unavailable,
        ),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", Unavailable),
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", InvalidArgument),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", InvalidArgument),
        ("sbatch: error: Invalid --sockets-per-node specification", InvalidArgument),
        ("sbatch: error: AssocMaxSubmitJobLimit", ResourceExhausted),
        (
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit,"
            " user's size and/or time limits)",
            ResourceExhausted,
        ),
        ("", InvalidArgument),
    ],
)
def test_a_refusal_is_told_apart_from_silence(words: str, kind: type[MulticriError]) -> None:
    error = refusal_of_sbatch(words)
    assert type(error) is kind
    assert words.rsplit(": ", maxsplit=1)[-1][:30] in str(error)


def test_only_a_positive_answer_means_that_a_job_or_the_accounting_is_not_there() -> None:
    assert says_unknown_job("slurm_load_jobs error: Invalid job id specified")
    assert not says_unknown_job("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert says_no_accounting("Slurm accounting storage is disabled")
    assert says_no_accounting("sacct: command not found")
    assert not says_no_accounting("sacct: error: Problem talking to the database: Connection refused")


EXIT_FILE = "code=3\nreason=Exited\nfinished_ns=99\nstdout_bytes=10\nstderr_bytes=0\njob_id=7\n"


def test_an_exit_file_is_read_and_half_of_one_is_none() -> None:
    exit_file = read_exit_file(EXIT_FILE)
    assert exit_file is not None
    assert dataclasses.astuple(exit_file) == (3, "Exited", 99, 10, 0)
    for half in ("", "code=3\n", "code=\njob_id=7\n", EXIT_FILE[:-10], "garbage"):
        assert read_exit_file(half) is None


def test_numbers_that_cri_has_no_room_for_are_not_believed() -> None:
    huge = "9" * 4000
    for lie in (f"code={huge}\njob_id=7\n", "code=256\njob_id=7\n"):
        assert read_exit_file(lie) is None
    exit_file = read_exit_file(f"code=255\njob_id=7\nfinished_ns={huge}\nstdout_bytes={huge}\n")
    assert exit_file is not None
    assert dataclasses.astuple(exit_file) == (255, "", None, None, None)
    assert read_started_file(f"7 {huge}") == (None, None)


def test_small_texts_are_read() -> None:
    assert read_started_file("7 123\n") == (7, 123)
    assert read_started_file("7\n") == (None, None)
    assert [code_of_pair(text) for text in ("3:0", "0:9", "137:0", "", "x")] == [3, 137, 137, None, None]


def ending(state: str | None, pair: str = "", exit_file: str = "", last_words: str = "") -> Ending:
    return Ending(
        state=state_named(state) if state else None,
        state_text=state or "",
        pair=pair,
        exit_file=read_exit_file(exit_file),
        started_ns=1,
        now_ns=100,
        last_words=last_words,
    )


@pytest.mark.parametrize(
    ("what", "code", "reason"),
    [
        (ending("COMPLETED", exit_file=EXIT_FILE.replace("=3", "=0")), 0, "Completed"),
        (ending("FAILED", "3:0", EXIT_FILE), 3, "Error"),
        (ending("FAILED", "9:0", EXIT_FILE.replace("=3", "=137")), 137, "Error"),
        (ending(None, "", EXIT_FILE), 3, "Error"),
        (ending("TIMEOUT", "0:15", EXIT_FILE.replace("=3", "=143")), 143, "DeadlineExceeded"),
        (ending("OUT_OF_MEMORY", "0:125", EXIT_FILE.replace("=3", "=137")), 137, "OOMKilled"),
        (ending("OUT_OF_MEMORY", "0:125"), 137, "OOMKilled"),
        (ending("TIMEOUT", "0:15"), 143, "DeadlineExceeded"),
        (ending("CANCELLED by 0", "0:0"), 137, "Cancelled"),
        (ending("PREEMPTED", "0:0"), 143, "Preempted"),
        (ending("NODE_FAIL", "1:0"), 255, "NodeFailure"),
        (ending("FAILED", "0:9"), 137, "Error"),
        (ending("FAILED", "3:0"), 3, "Error"),
        (ending("FAILED", "0:0"), 1, "Error"),
        (ending("FAILED"), 1, "Error"),
        (ending("COMPLETED", "0:0"), 0, "Completed"),
        (ending(None), 255, "JobLost"),
        (ending("FAILED", "7:0", EXIT_FILE.replace("Exited", "PrerunFailed")), 3, "PrerunFailed"),
    ],
)
def test_the_exit_file_tells_the_code_and_slurm_the_reason(what: Ending, code: int, reason: str) -> None:
    report = report_of(ContainerId("c"), "job 7", what)
    assert (report.phase, report.exit_code, report.reason) == (Phase.EXITED, code, reason)
    assert report.started_at_ns == 1
    assert report.finished_at_ns in {99, 100}


def test_last_words_end_the_message() -> None:
    assert report_of(ContainerId("c"), "job 7", ending("FAILED", "1:0", last_words="bad")).message.endswith(": bad")
    assert report_of(ContainerId("c"), "job 7", ending("FAILED", "3:0", EXIT_FILE)).message == ""
