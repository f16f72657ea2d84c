"""What the remote scripts and Slurm's programs say, read. Pure.

A login shell may print anything before our script runs, so each line of an answer begins with `MARK`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from multicri_proxy.api.errors import InvalidArgument, MulticriError, ResourceExhausted, Unavailable
from multicri_proxy.api.ids import JobId

MARK = "multicri:"
_RANGES = re.compile(r"\[([0-9,-]+)\]", re.ASCII)
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """A job as squeue, sacct or scontrol tells it. Fields that a program does not tell are empty."""

    job_id: JobId
    name: str
    state: str
    reason: str = ""
    nodes: str = ""
    cluster_account: str = ""
    exit_pair: str = ""


def first_node(nodes: str) -> str:
    """The first one of Slurm's list, like ``c[01-03,7],d``: there a job's script runs. Empty if there is none."""
    first = _RANGES.sub(lambda ranges: re.split("[-,]", ranges[1])[0], nodes.strip())
    return first.partition(",")[0] if _NODE.fullmatch(first.partition(",")[0]) else ""


def facts(output: bytes) -> Mapping[str, tuple[str, ...]]:
    """The answer of a script: for each name its values, in the order in which they were printed."""
    found: dict[str, list[str]] = {}
    for line in output.decode("utf-8", "replace").split("\n"):
        if line.startswith(MARK):
            name, equals, value = line.removeprefix(MARK).partition("=")
            if equals:
                found.setdefault(name, []).append(value)
    return {name: tuple(values) for name, values in found.items()}


def squeue_jobs(lines: Iterable[str]) -> dict[JobId, JobLine]:
    """Lines of ``squeue -o '%i|%T|%N|%a|%j|%r'``."""
    jobs = {}
    for line in lines:
        fields = line.split("|", 5)
        if len(fields) == 6 and fields[0].isdecimal():
            job_id = JobId(int(fields[0]))
            jobs[job_id] = JobLine(
                job_id=job_id,
                state=fields[1],
                nodes=fields[2],
                cluster_account=fields[3].replace("(null)", ""),
                name=fields[4],
                reason="" if fields[5] == "None" else fields[5],
            )
    return jobs


def sacct_jobs(lines: Iterable[str]) -> dict[JobId, JobLine]:
    """Lines of ``sacct -X -n -P -o JobIDRaw,State,ExitCode,NodeList,Account,JobName``."""
    jobs = {}
    for line in lines:
        fields = line.split("|", 5)
        if len(fields) == 6 and fields[0].isdecimal():
            job_id = JobId(int(fields[0]))
            jobs[job_id] = JobLine(
                job_id=job_id,
                state=fields[1],
                exit_pair=fields[2],
                nodes="" if fields[3] == "None assigned" else fields[3],
                cluster_account=fields[4],
                name=fields[5],
            )
    return jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUsage:
    """What the processes of a job's step use, all together. memory_bytes: that they cannot be made to give back."""

    cpu_ns: int
    memory_bytes: int
    resident_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a container uses, as its own script has measured it. measured_at_ns: Unix time of its node."""

    measured_at_ns: int
    usage: StepUsage


_READING = re.compile(r"([0-9]{1,18}|[1-8][0-9]{18}) ([0-9]{1,18}) ([0-9]{1,18}) ([0-9]{1,18})", re.ASCII)


def read_usage_file(text: str) -> Reading | None:
    """The line of the file ``usage``; None if it is none, or tells more than can be. Its account can write it."""
    match = _READING.fullmatch(text.strip())
    if match is None:
        return None
    at_ns, cpu_ns, memory_bytes, resident_bytes = map(int, match.groups())
    usage = StepUsage(cpu_ns=cpu_ns, memory_bytes=memory_bytes, resident_bytes=resident_bytes)
    return Reading(measured_at_ns=at_ns, usage=usage)


def sstat_usage(lines: Iterable[str]) -> dict[JobId, dict[str, StepUsage]]:
    """Lines of ``sstat -a -n -P -o JobID,TRESUsageInTot``: by job, by step."""
    jobs: dict[JobId, dict[str, StepUsage]] = {}
    for line in lines:
        name, _, tres = line.partition("|")
        job, _, step = name.partition(".")
        told = dict(pair.partition("=")[::2] for pair in tres.split(","))
        cpu_s, memory_bytes = _seconds(told.get("cpu", "")), _bytes(told.get("mem", ""))
        if job.isdecimal() and cpu_s is not None and memory_bytes is not None:
            cpu_ns = round(cpu_s * 1_000_000_000)
            usage = StepUsage(cpu_ns=cpu_ns, memory_bytes=memory_bytes, resident_bytes=memory_bytes)
            jobs.setdefault(JobId(int(job)), {})[step] = usage
    return jobs


def gathers_usage(lines: Iterable[str]) -> bool:
    """Whether Slurm measures jobs, from what ``scontrol show config`` says of JobAcctGather...

    Before 24.05 there is a plug-in called none, since then no plug-in. A frequency of 0 means at a job's end only.
    """
    told = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    frequency = told.get("JobAcctGatherFrequency", "").removeprefix("task=")
    return told.get("JobAcctGatherType", "") in _GATHERERS and not re.match("0+(,|$)", frequency)


_GATHERERS = frozenset({"jobacct_gather/linux", "jobacct_gather/cgroup"})
_DURATION = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)", re.ASCII)


def _seconds(text: str) -> float | None:
    """``[days-][hours:]minutes:seconds``"""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _bytes(text: str) -> int | None:
    """``112544K``"""
    match = _SIZE.fullmatch(text)
    return int(float(match[1]) * 1024 ** " KMGTP".index(match[2] or " ")) if match is not None else None


_SCONTROL = {
    "job_id": re.compile(r"(?:^|\s)JobId=(\d+)"),
    "name": re.compile(r"(?:^|\s)JobName=(\S+)"),
    "state": re.compile(r"(?:^|\s)JobState=(\S+)"),
    "reason": re.compile(r"(?:^|\s)Reason=(\S+)"),
    "pair": re.compile(r"(?:^|\s)ExitCode=(\d+:\d+)"),
    "nodes": re.compile(r"(?:^|\s)NodeList=(\S+)"),
    "account": re.compile(r"(?:^|\s)Account=(\S+)"),
}


def scontrol_job(text: str) -> JobLine | None:
    """The answer of ``scontrol show job N``; None if it is none."""
    found = {name: match[1] for name, pattern in _SCONTROL.items() if (match := pattern.search(text))}
    if not {"job_id", "name", "state"} <= found.keys():
        return None
    return JobLine(
        job_id=JobId(int(found["job_id"])),
        name=found["name"],
        state=found["state"],
        reason=found.get("reason", "").replace("None", ""),
        nodes=found.get("nodes", "").replace("(null)", ""),
        cluster_account=found.get("account", "").replace("(null)", ""),
        exit_pair=found.get("pair", ""),
    )


_UNKNOWN_JOB = re.compile(r"invalid job ?id", re.IGNORECASE)
_NO_ACCOUNTING = re.compile(
    r"accounting storage is disabled|slurmdbd.*not configured|command not found|not found", re.IGNORECASE
)
_SILENT = re.compile(
    r"unable to contact|timed out|connection (refused|timed out|reset)|zero bytes|standby|"
    r"communication|temporarily|transport endpoint|try again|cannot be reached|resolve|credential|munge|"
    r"authentication|could not establish|server\(s\)|resource temporarily",
    re.IGNORECASE,
)
_LIMIT = re.compile(r"(submit|max).*limit|limit.*(submit|job)|qosmax|assocmax", re.IGNORECASE)


def says_unknown_job(text: str) -> bool:
    """Does Slurm say, positively, that there is no such job?"""
    return _UNKNOWN_JOB.search(text) is not None


def says_no_accounting(text: str) -> bool:
    """Is there, positively, no accounting in this cluster, or none that this user may ask?"""
    return _NO_ACCOUNTING.search(text) is not None


def says_nothing_of_slurm(text: str) -> bool:
    """Are these the words of a program that has not reached Slurm?"""
    return _SILENT.search(text) is not None


def refusal_of_sbatch(text: str) -> MulticriError:
    """The error that sbatch's own words mean."""
    words = " ".join(text.split())[-600:] or "no words"
    if _SILENT.search(words):
        return Unavailable(f"Slurm does not answer: {words}")
    if _LIMIT.search(words):
        return ResourceExhausted(f"Slurm refuses the job for now: {words}")
    return InvalidArgument(f"Slurm refuses the job: {words}")
