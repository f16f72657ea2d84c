"""How a container ended: from the exit file that its job wrote, and from Slurm's last word. Pure.

sacct before 25.11 masks codes from 128 on (137 is told as 9:0), so the exit file is the truth about the code. Slurm's
state is the truth about the reason: a container that ran out of time ends with a code of its own choosing.
"""

import re
from dataclasses import dataclass

from multicri_proxy.api.adapter import Phase, Report
from multicri_proxy.api.ids import ContainerId
from multicri_slurm.script import EXITED, PRERUN_FAILED, REQUEUED
from multicri_slurm.srun_script import MPI_FAILED
from multicri_slurm.states import JobState, with_canceller

_LINE = re.compile(r"([a-z_]+)=([A-Za-z0-9]*)", re.ASCII)
LOST = 255
LARGEST_CODE, LARGEST_NUMBER = 255, 2**63 - 1
"""Whoever has the account can write these files: CRI has no room for more, and then tells nothing of the container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitFile:
    """What the job wrote last.

    stdout_bytes, stderr_bytes: how long the streams are: a network file system may show less for a while.
    """

    code: int
    reason: str
    finished_ns: int | None
    stdout_bytes: int | None
    stderr_bytes: int | None


def read_exit_file(text: str) -> ExitFile | None:
    """None if the text is no whole exit file."""
    found = {match[1]: match[2] for line in text.splitlines() if (match := _LINE.fullmatch(line))}
    code = _number(found.get("code", ""), LARGEST_CODE)
    if code is None or "job_id" not in found:
        return None
    return ExitFile(
        code=code,
        reason=found.get("reason", ""),
        finished_ns=_number(found.get("finished_ns", "")),
        stdout_bytes=_number(found.get("stdout_bytes", "")),
        stderr_bytes=_number(found.get("stderr_bytes", "")),
    )


def read_started_file(text: str) -> tuple[int | None, int | None]:
    """(job id, Unix time in ns) from the file ``started``; None for what it does not tell."""
    words = text.split()
    numbers = [_number(word) for word in words]
    return (numbers[0], numbers[1]) if len(numbers) == 2 and None not in numbers else (None, None)


def _number(text: str, largest: int = LARGEST_NUMBER) -> int | None:
    """None if it is none, or none that can be true."""
    return number if text.isdecimal() and (number := int(text)) <= largest else None


def code_of_pair(text: str) -> int | None:
    """An exit code from Slurm's ``code:signal``; None if it is no such pair."""
    match = re.fullmatch(r"([0-9]+):([0-9]+)", text.strip(), re.ASCII)
    if match is None:
        return None
    code, signal = int(match[1]), int(match[2])
    return 128 + signal if signal and not code else code


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """All that is known when a job is over.

    state: Slurm's; None if it has forgotten the job. state_text: as it was printed. pair: ``code:signal``.
    in_prerun: whether the prerun text had begun and not ended.
    """

    state: JobState | None
    state_text: str
    pair: str
    exit_file: ExitFile | None
    started_ns: int | None
    now_ns: int
    last_words: str
    in_prerun: bool = False


def report_of(container_id: ContainerId, job: str, ending: Ending) -> Report:
    """The last report of a container. job: how to name it in a sentence."""
    exit_file, state = ending.exit_file, ending.state
    if exit_file is not None:
        code, finished_ns = exit_file.code, exit_file.finished_ns
        told = state.reason if state is not None else ""
        own = "" if exit_file.reason == EXITED else exit_file.reason
        reason = own or told or ("Completed" if code == 0 else "Error")
        message = f"{job} {with_canceller(ending.state_text)}" if told else ""
        if own == PRERUN_FAILED:
            message = f"the prerun text ended with code {code} in {job}; the container was not started"
        if own == MPI_FAILED:
            message = f"srun starts no ranks on the nodes of {job}; the container was not started"
        if own == REQUEUED:
            message = f"{job} was requeued, which ended the container; it does not run twice"
    elif state is not None:
        pair = code_of_pair(ending.pair)
        code = state.exit_code if state.exit_code is not None else (pair if pair else 1)
        finished_ns = None
        reason = state.reason or ("Completed" if code == 0 else "Error")
        message = f"{job} {with_canceller(ending.state_text)}, without an exit code of the container's own"
        if ending.in_prerun and not state.reason:
            code, reason = code or 1, PRERUN_FAILED
            message = f"the prerun text ended the script of {job}; the container was not started"
    else:
        code, finished_ns, reason = LOST, None, "JobLost"
        message = f"{job} is known neither to squeue nor sacct nor scontrol, and has left no exit code"
    if ending.last_words:
        message = f"{message}: {ending.last_words}" if message else ending.last_words
    return Report(
        container_id=container_id,
        phase=Phase.EXITED,
        started_at_ns=ending.started_ns,
        finished_at_ns=finished_ns or ending.now_ns,
        exit_code=code,
        reason=reason,
        message=message,
    )
