"""What a job has left behind when it is over, gathered from its directory."""

import time
from dataclasses import dataclass

from multicri_proxy.api.adapter import Phase, Report
from multicri_proxy.api.ids import JobId
from multicri_slurm.allocation_script import CANCELLED
from multicri_slurm.answers import JobLine
from multicri_slurm.exits import Ending, read_exit_file, read_started_file, report_of
from multicri_slurm.records import Record
from multicri_slurm.script import EXITED
from multicri_slurm.states import JobState, state_named
from multicri_slurm.verbs import ClusterVerbs

LAST_WORDS_BYTES = 8192
SMALL_FILE_BYTES = 4096
NEVER_RAN = JobState(phase=Phase.EXITED, reason=CANCELLED, exit_code=137)
"""An allocation that ends well says nothing of the containers that it has not come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """The end of a container, to be put into its record.

    claimed_by: the job that ran, or runs, the container, if it is another one than we know of.
    """

    report: Report
    told: bool
    last_words: str
    stdout_bytes: int | None
    stderr_bytes: int | None
    claimed_by: JobId | None


async def gather(cluster: ClusterVerbs, record: Record, line: JobLine | None) -> Remains:
    """Read how a job ended. line: Slurm's last word; None if it has forgotten the job.

    Raises Unavailable if the files cannot be read now.
    """
    directory = record.directory
    await cluster.refresh(directory)
    exit_file = read_exit_file(await _text(cluster, f"{directory}/exit"))
    _, started_ns = read_started_file(await _text(cluster, f"{directory}/started"))
    claimed_by = None
    in_prerun = False
    last_words = ""
    if exit_file is None:
        claim = (await _text(cluster, f"{directory}/claim/job")).strip()
        claimed_by = JobId(int(claim)) if claim.isdecimal() and int(claim) != record.job_id else None
        in_prerun = await cluster.size_of(f"{directory}/claim/prerun") is not None
    state = state_named(line.state) if line is not None else None
    if exit_file is None or exit_file.reason != EXITED or (state is not None and state.reason):
        tail = await cluster.read_tail(f"{directory}/slurm.out", LAST_WORDS_BYTES)
        last_words = tail.decode("utf-8", "replace")
    if record.allocation is not None and exit_file is None and state is not None and state.exit_code == 0:
        state = NEVER_RAN
    ending = Ending(
        state=state,
        state_text=line.state if line is not None else "",
        pair=line.exit_pair if line is not None else "",
        exit_file=exit_file,
        started_ns=started_ns,
        now_ns=time.time_ns(),
        last_words=" / ".join(last_words.split("\n")[-6:]).strip(" /")[-1000:],
        in_prerun=in_prerun,
    )
    return Remains(
        report=report_of(record.container_id, f"job {record.job_id}", ending),
        told=exit_file is not None,
        last_words=last_words,
        stdout_bytes=exit_file.stdout_bytes if exit_file else None,
        stderr_bytes=exit_file.stderr_bytes if exit_file else None,
        claimed_by=claimed_by,
    )


async def started_at_ns(cluster: ClusterVerbs, directory: str) -> int | None:
    """When the container was started; None while it was not."""
    return read_started_file(await _text(cluster, f"{directory}/started"))[1]


async def step_of(cluster: ClusterVerbs, directory: str) -> str:
    """The number of the step that runs the container of this directory; empty if there is none yet."""
    words = (await _text(cluster, f"{directory}/step")).strip()
    return words if words.isdecimal() else ""


async def has_ended(cluster: ClusterVerbs, directory: str) -> bool:
    """Whether the step that ran the container of this directory is gone."""
    await cluster.refresh(directory)
    return await cluster.size_of(f"{directory}/ended") is not None


async def _text(cluster: ClusterVerbs, path: str) -> str:
    return (await cluster.read_piece(path, 0, SMALL_FILE_BYTES) or b"").decode("utf-8", "replace")
