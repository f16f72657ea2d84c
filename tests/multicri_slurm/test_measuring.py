"""What a job's own script measures, in bash: of cgroups as Slurm makes them, and of real processes."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from multicri_slurm.answers import Reading, StepUsage, read_usage_file
from multicri_slurm.measuring import Scope, measuring_functions

MIB = 1024 * 1024
V2 = "0::/system.slice/slurmstepd.scope/job_12/step_batch/user/task_0\n"
V1 = """\
9:name=systemd:/
4:memory:/box/slurm/uid_2001/job_12/step_{step}/task_0
2:cpu,cpuacct:/box/slurm/uid_2001/job_12/step_{step}/task_0
0::/
"""
STAT_V2 = "anon {anon}\nfile 999\ninactive_anon 7\ninactive_file {cache}\n"
STAT_V1 = "cache 5\nrss 1\ninactive_file 3\ntotal_cache 5\ntotal_rss {anon}\ntotal_inactive_file {cache}\n"


def cgroup(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


def reading(tmp_path: Path, *, of_self: str = "0::/\n", scope: Scope = "job", before: str = "") -> Reading:
    """What a script in job 12 says, whose /proc/self/cgroup reads so, with cgroups below tmp_path."""
    (tmp_path / "self").write_text(of_self)
    functions = (
        measuring_functions(scope, tasks=False)
        .replace("/proc/self/cgroup", str(tmp_path / "self"))
        .replace("/sys/fs/cgroup", str(tmp_path / "cgroup"))
    )
    script = f"{functions}\n{before}\nmulticri_measure 2> /dev/null\n"
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "3"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=env, timeout=60)
    found = read_usage_file(done.stdout)
    assert found is not None, done.stdout
    assert abs(found.measured_at_ns - time.time_ns()) < 60 * 10**9
    return found


def test_a_jobs_cgroups_of_version_2_are_added_up_without_slurms_own_processes(tmp_path: Path) -> None:
    job = tmp_path / "cgroup/system.slice/slurmstepd.scope/job_12"
    for step, usec, memory, cache, anon in (("batch", 1500, 5000, 1000, 2000), ("0", 500, 300, 0, 100)):
        cgroup(
            job / f"step_{step}/user",
            cpu__stat=f"usage_usec {usec}\nuser_usec 1\n",
            memory__current=f"{memory}\n",
            memory__stat=STAT_V2.format(anon=anon, cache=cache),
        )
        cgroup(job / f"step_{step}/slurm", cpu__stat="usage_usec 7777\n", memory__current="7777\n")
    cgroup(job.with_name("job_123") / "step_batch/user", cpu__stat="usage_usec 7777\n")
    found = reading(tmp_path, of_self=V2)
    assert found.usage == StepUsage(cpu_ns=2_000_000, memory_bytes=4300, resident_bytes=2100)


def test_of_a_step_its_own_cgroup_is_read_in_either_version(tmp_path: Path) -> None:
    v2 = tmp_path / "cgroup/system.slice/slurmstepd.scope/job_12"
    for step, number in (("3", 1), ("4", 7)):
        memory = f"{number}0000\n"
        cgroup(
            v2 / f"step_{step}/user",
            cpu__stat=f"usage_usec {number}\n",
            memory__current=memory,
            memory__stat=STAT_V2.format(anon=2000, cache=1000),
        )
    found = reading(tmp_path, of_self=V2.replace("batch", "3"), scope="step")
    assert found.usage == StepUsage(cpu_ns=1000, memory_bytes=9000, resident_bytes=2000)


@pytest.mark.parametrize(("scope", "step", "below"), [("job", "batch", "job_12"), ("step", "3", "job_12/step_3")])
def test_cgroups_of_version_1_tell_memory_and_processor_time(
    tmp_path: Path, scope: Scope, step: str, below: str
) -> None:
    for controller, files in {
        "memory": {"memory__usage_in_bytes": "9000\n", "memory__stat": STAT_V1.format(anon=4000, cache=1000)},
        "cpuacct": {"cpuacct__usage": "123456789\n"},
    }.items():
        cgroup(tmp_path / f"cgroup/{controller}/box/slurm/uid_2001" / below, **files)
    found = reading(tmp_path, of_self=V1.format(step=step), scope=scope)
    assert found.usage == StepUsage(cpu_ns=123_456_789, memory_bytes=8000, resident_bytes=4000)


HOLDS = "x=$(head -c 40000000 /dev/zero | tr '\\0' x)\n"
ENDED = "bash -c 'for ((turn = 0; turn < 400000; turn++)); do :; done'\n"


def test_without_cgroups_the_processes_are_added_up_also_those_that_have_ended(tmp_path: Path) -> None:
    found = reading(tmp_path, before=HOLDS + ENDED)
    assert found.usage.cpu_ns >= 50_000_000  # a fraction of what these turns take
    assert 40_000_000 < found.usage.resident_bytes < 400 * MIB
    assert found.usage.memory_bytes == found.usage.resident_bytes


def test_processes_of_others_do_not_count_nor_does_an_odd_name(tmp_path: Path) -> None:
    odd = tmp_path / ") R 1 (\n1 2"
    odd.write_text("#!/bin/bash\nx=$(head -c 40000000 /dev/zero | tr '\\0' x)\necho full\nread -r\n")
    odd.chmod(0o755)
    with subprocess.Popen([odd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "full\n"
        assert reading(tmp_path).usage.resident_bytes < 40_000_000
        other.communicate("\n")


@pytest.mark.parametrize(
    "text", ["", "1 2 3", "1 2 3 4 5", "1 2 3 -4", "1 2 3 99999999999999999999", "9999999999999999999 2 3 4", "a b c d"]
)
def test_a_line_that_is_none_or_tells_more_than_can_be_is_not_believed(text: str) -> None:
    assert read_usage_file(text) is None
