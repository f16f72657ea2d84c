"""What slurmrestd answers, read. Pure.

Numbers come as ``{"set": true, "infinite": false, "number": 3}``, states as lists of a base state and its flags.
Source: the schemas of v0.0.40 to v0.0.45, and what Slurm 24.11 and 26.05 were seen to answer.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.ids import JobId
from multicri_slurm.answers import JobLine

NO_SUCH_JOB = 2017
JOBS_BETWEEN_PAUSES = 16

_SPACE = " \t\r\n"
_BASE = frozenset(
    {
        *("PENDING", "RUNNING", "SUSPENDED", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"),
        *("PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"),
    }
)
_decoder = json.JSONDecoder()


def fields_of(body: bytes) -> dict[str, Any]:
    """A small answer. Raises Unavailable if it is no JSON object."""
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise Unavailable(f"slurmrestd's answer cannot be read: {body[:200]!r}") from error
    if not isinstance(answer, dict):
        raise Unavailable("slurmrestd's answer is no object")
    return answer


def words_of(body: bytes) -> str:
    """What an answer complains of, in one line."""
    try:
        errors = fields_of(body).get("errors") or []
    except Unavailable:
        return body[:200].decode("utf-8", "replace")
    words = [
        f"{error.get('error', '')} ({error.get('description', '')})" for error in errors if isinstance(error, dict)
    ]
    return " / ".join(words)[:600] or "no words"


def says_no_such_job(body: bytes) -> bool:
    """Positively."""
    errors = fields_of(body).get("errors") or []
    return any(isinstance(error, dict) and error.get("error_number") == NO_SUCH_JOB for error in errors)


def jobs_of(body: bytes, username: str) -> list[JobLine]:
    """A user's jobs in an answer of slurmctld's, which holds everybody's: for a thread, since it may take a second.

    It is read job by job, with pauses, for a C parser of the whole would let no other thread run meanwhile.
    Raises Unavailable if it cannot be read.
    """
    found = []
    try:
        for number, job in enumerate(_each_job(body.decode("utf-8", "replace"))):
            if number % JOBS_BETWEEN_PAUSES == 0:
                time.sleep(0)
            if job.get("user_name") == username:
                found.append(_line(job, job["job_state"], job.get("state_description") or job.get("state_reason")))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Unavailable(f"slurmrestd's list of jobs cannot be read: {error}") from error
    return found


def recorded_jobs(body: bytes) -> list[JobLine]:
    """The jobs in an answer of slurmdbd's. Raises Unavailable if it cannot be read."""
    try:
        return [
            _with_canceller(_line(job, job["state"]["current"], job["state"].get("reason")), job)
            for job in fields_of(body).get("jobs") or []
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable(f"slurmrestd's record of jobs cannot be read: {error}") from error


def _each_job(text: str) -> Iterator[dict[str, Any]]:
    """The objects in the list ``jobs`` of an object."""
    at = _after(text, 0, "{")
    while _at(text, at) == '"':
        name, at = _decoder.raw_decode(text, _skip(text, at))
        at = _after(text, at, ":")
        if name == "jobs" and _at(text, at) == "[":
            at = _after(text, at, "[")
            while _at(text, at) == "{":
                job, at = _decoder.raw_decode(text, _skip(text, at))
                yield job
                if _at(text, at) == ",":
                    at = _after(text, at, ",")
            at = _after(text, at, "]")
        else:
            _, at = _decoder.raw_decode(text, _skip(text, at))
        if _at(text, at) == ",":
            at = _after(text, at, ",")
    _after(text, at, "}")


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _at(text: str, at: int) -> str:
    return text[_skip(text, at)]


def _after(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if text[at] != mark:
        raise ValueError(f"no {mark!r} at {at}")
    return at + 1


def _line(job: dict[str, Any], states: Any, reason: Any) -> JobLine:
    """Flags go before the base state, as squeue prints them."""
    named = [states] if isinstance(states, str) else list(states)
    exit_code = job.get("exit_code") or {}
    code, signal = _number(exit_code.get("return_code")), _number((exit_code.get("signal") or {}).get("id"))
    return JobLine(
        job_id=JobId(int(job["job_id"])),
        name=str(job.get("name") or ""),
        state=next((state for state in named if state not in _BASE), named[0]),
        reason="" if reason in {None, "None"} else str(reason),
        nodes="" if job.get("nodes") in {None, "None assigned"} else str(job["nodes"]),
        cluster_account=str(job.get("account") or ""),
        exit_pair=f"{code}:{signal}",
    )


def _with_canceller(line: JobLine, job: dict[str, Any]) -> JobLine:
    """As sacct prints it, which knows a number where slurmrestd knows a name."""
    user = job.get("kill_request_user")
    return replace(line, state=f"CANCELLED by {user}") if line.state == "CANCELLED" and user else line


def _number(told: Any) -> int:
    if isinstance(told, dict):
        told = told.get("number") if told.get("set", True) else 0
    return int(told or 0)
