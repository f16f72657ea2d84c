"""What each of Slurm's job states means for a container: THE table. Pure.

Source: slurm/slurm.h (enum job_states, JOB_STATE_FLAGS) and job_state_codes.html, 22.05 to 26.05. squeue and sacct
print a flag in place of the base state where they know it; sacct prints ``CANCELLED by 1000``, and ``COMPLETED+`` for
what it has cut off.
"""

import re
from dataclasses import dataclass

from multicri_proxy.api.adapter import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """phase: None if the state says nothing about it: what was known stays.

    reason: of a container that ended so, or is held up so; empty if its exit code, or Slurm's own reason, tells.
    exit_code: if the job left no exit file.
    """

    phase: Phase | None
    reason: str = ""
    exit_code: int | None = None


_QUEUED = JobState(phase=Phase.QUEUED)
_RUNNING = JobState(phase=Phase.RUNNING)
_FROZEN = JobState(phase=Phase.RUNNING, reason="Suspended")
_NO_CHANGE = JobState(phase=None)
_KILLED = 137
_TERMINATED = 143


def _ended(reason: str, exit_code: int | None) -> JobState:
    return JobState(phase=Phase.EXITED, reason=reason, exit_code=exit_code)


STATES = {
    # base states
    "PENDING": _QUEUED,
    "RUNNING": _RUNNING,
    "SUSPENDED": _FROZEN,
    "COMPLETED": _ended("", 0),
    "CANCELLED": _ended("Cancelled", _KILLED),
    "FAILED": _ended("", None),
    "TIMEOUT": _ended("DeadlineExceeded", _TERMINATED),
    "NODE_FAIL": _ended("NodeFailure", 255),
    "PREEMPTED": _ended("Preempted", _TERMINATED),
    "BOOT_FAIL": _ended("NodeFailure", 255),
    "DEADLINE": _ended("DeadlineExceeded", _TERMINATED),
    "OUT_OF_MEMORY": _ended("OOMKilled", _KILLED),
    # flags
    "CONFIGURING": _QUEUED,
    "COMPLETING": _NO_CHANGE,
    "EXPEDITING": _QUEUED,
    "GETENV_FAILED": _NO_CHANGE,
    "LAUNCH_FAILED": _NO_CHANGE,
    "POWER_UP_NODE": _QUEUED,
    "RECONFIG_FAIL": _NO_CHANGE,
    # Our jobs forbid it, an admin may do it all the same. The job then ends as soon as it runs again: its container
    # has run already.
    "REQUEUED": _QUEUED,
    "REQUEUE_FED": _QUEUED,
    "REQUEUE_HOLD": JobState(phase=Phase.QUEUED, reason="RequeueHold"),
    "RESIZING": _RUNNING,
    "RESV_DEL_HOLD": JobState(phase=Phase.QUEUED, reason="ReservationDeleted"),
    "REVOKED": _NO_CHANGE,  # another cluster of the federation runs it
    "SIGNALING": _RUNNING,
    "SPECIAL_EXIT": JobState(phase=Phase.QUEUED, reason="SpecialExit"),
    "STAGE_OUT": _NO_CHANGE,
    "STOPPED": _FROZEN,
    "UPDATE_DB": _NO_CHANGE,
}


def state_named(text: str) -> JobState | None:
    """The meaning of a state as any of Slurm's programs prints it; None if it is in no table."""
    words = text.split()
    return STATES.get(words[0].rstrip("+").split("+")[0].upper()) if words else None


def is_over(text: str) -> bool:
    """Has a job in this state ended?"""
    state = state_named(text)
    return state is not None and state.phase is Phase.EXITED


def with_canceller(text: str) -> str:
    """sacct's ``CANCELLED by 1000`` for a human; every other state as it is."""
    return _BY_UID.sub(r"\1 by uid \2", text)


_BY_UID = re.compile(r"^(CANCELLED) by (\d+)$")
