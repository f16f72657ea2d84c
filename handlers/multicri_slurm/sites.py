"""What is told of a cluster: what a place there has, and what is known of jobs. Data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from multicri_proxy.api.ids import JobId
from multicri_slurm.answers import JobLine, Reading, StepUsage

Signal = Literal["TERM", "USR1", "CANCEL"]
"""TERM and USR1 are for the batch script; a job that waits is cancelled. CANCEL is for all of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a login host has.

    programs: those that were looked for. ch_run_options: its long options, and ``squash`` if it mounts such files.
    prerun: the text after which it was so. mpi_types: for ``srun --mpi``.
    measures: whether sstat tells what running jobs use.
    """

    home: str
    programs: frozenset[str]
    ch_run_options: frozenset[str]
    prerun: bytes | None = None
    mpi_types: frozenset[str] = frozenset()
    measures: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is known of jobs that squeue does not list.

    jobs: those that sacct or scontrol knows. unknown: those that nobody knows, positively.
    unended: those that slurmctld has forgotten, positively, and the accounting has not heard the end of.
    """

    jobs: Mapping[JobId, JobLine]
    unknown: frozenset[JobId]
    unended: frozenset[JobId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What running containers use.

    steps: by job and step, as sstat tells. readings: by directory, of those whose own script tells.
    """

    steps: Mapping[JobId, Mapping[str, StepUsage]]
    readings: Mapping[str, Reading]
