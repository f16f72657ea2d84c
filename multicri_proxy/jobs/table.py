"""Jobs as people read them: one line each, columns as wide as they must be."""

from collections.abc import Mapping, Sequence
from typing import Any

_HEADINGS = ("POD", "CONTAINER", "JOB", "STATE", "REASON", "NODE", "ELAPSED", "CLUSTER")
_LONGEST_CELL = 60


def table(jobs: Sequence[Mapping[str, Any]]) -> str:
    """jobs: as the daemon tells them. A dash stands for what is not known or not there yet."""
    rows = [_HEADINGS, *(tuple(map(_cell, _columns(job))) for job in jobs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def elapsed_text(elapsed_s: int | None) -> str:
    """``[D-]HH:MM:SS``, as squeue has it."""
    if elapsed_s is None:
        return ""
    minutes, seconds = divmod(elapsed_s, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}-' if days else ''}{hours:02d}:{minutes:02d}:{seconds:02d}"


def _columns(job: Mapping[str, Any]) -> tuple[str, ...]:
    reason = f"{job['reason']} ({job['exit_code']})" if job["exit_code"] else job["reason"]
    facts = (job[name] for name in ("pod", "container", "job_id", "state"))
    return (*facts, reason, job["node"], elapsed_text(job["elapsed_s"]), job["cluster"])


def _cell(text: str) -> str:
    """Nothing that a cluster or a pod's author wrote moves the cursor."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return (shown if len(shown) <= _LONGEST_CELL else f"{shown[: _LONGEST_CELL - 1]}…") or "-"
