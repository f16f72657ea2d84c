"""What running jobs use: sstat's words, and their sum."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from multicri_slurm.answers import StepUsage, facts, gathers_usage, sstat_usage
from multicri_slurm.remote_scripts import USAGE
from multicri_slurm.usage import Meter

from multicri_proxy.api.adapter import Usage
from multicri_proxy.api.ids import JobId

S = 1_000_000_000


def test_sstat_is_read() -> None:
    lines = [
        "1.batch|cpu=00:00:02,energy=0,fs/disk=32747,mem=112888K,pages=0,vmem=121364K",  # Slurm 22.05 to 26.05
        "1.0|cpu=1-01:01:01.5,energy=0,fs/disk=1,mem=2.5M,pages=0,vmem=3G",
        "2.extern|cpu=00:00:00,mem=0",
        "3.batch|",
        "sstat: error: couldn't get steps for job 99",
    ]
    assert sstat_usage(lines) == {
        1: {
            "batch": StepUsage(cpu_ns=2 * S, memory_bytes=112_888 * 1024, resident_bytes=112_888 * 1024),
            "0": StepUsage(cpu_ns=90_061 * S + S // 2, memory_bytes=2_621_440, resident_bytes=2_621_440),
        },
        2: {"extern": StepUsage(cpu_ns=0, memory_bytes=0, resident_bytes=0)},
    }
    assert sstat_usage(["1.batch|cpu=00:00:02,mem=1K"]).keys() == {JobId(1)}


@pytest.mark.parametrize(
    ("type_", "frequency", "gathers"),
    [
        ("jobacct_gather/linux", "30", True),
        ("jobacct_gather/cgroup", "task=5", True),
        ("jobacct_gather/linux", "energy=0,task=10", True),
        ("jobacct_gather/linux", "0", False),
        ("jobacct_gather/cgroup", "task=0,energy=30", False),
        ("jobacct_gather/none", "30", False),  # 22.05
        ("(null)", "30", False),  # 24.11
    ],
)
def test_slurm_measures_if_its_configuration_has_it_do_so_while_jobs_run(
    type_: str, frequency: str, gathers: bool
) -> None:
    lines = [
        f"JobAcctGatherFrequency  = {frequency}",
        f"JobAcctGatherType       = {type_}",
        "JobAcctGatherParams = x=y",
    ]
    assert gathers_usage(lines) is gathers


def test_a_slurm_that_says_nothing_of_its_configuration_is_not_relied_upon() -> None:
    assert not gathers_usage([])


def used(cpu_ns: int, memory_bytes: int, resident_bytes: int) -> StepUsage:
    return StepUsage(cpu_ns=cpu_ns, memory_bytes=memory_bytes, resident_bytes=resident_bytes)


def test_a_jobs_processor_time_never_goes_back_when_one_of_its_steps_has_ended() -> None:
    meter = Meter()
    meter.read({"batch": used(1 * S, 10, 9), "0": used(5 * S, 90, 80)}, 10 * S)
    assert meter.usage == Usage(measured_at_ns=10 * S, cpu_ns=6 * S, memory_bytes=100, resident_bytes=89)
    meter.read({"batch": used(2 * S, 11, 10)}, 14 * S)
    last = Usage(measured_at_ns=14 * S, cpu_ns=7 * S, cpu_nano_cores=S // 4, memory_bytes=11, resident_bytes=10)
    assert meter.usage == last


def test_what_is_read_twice_is_no_second_measurement() -> None:
    meter = Meter()
    meter.read({"": used(1 * S, 10, 9)}, 10 * S)
    meter.read({"": used(3 * S, 10, 9)}, 14 * S)
    known = meter.usage
    meter.read({"": used(3 * S, 10, 9)}, 14 * S)
    meter.read({"": used(2 * S, 10, 9)}, 13 * S)
    assert meter.usage is known


SSTAT = '#!/bin/sh\necho "$@" >> "$CALLS"\necho "8.batch|cpu=00:00:02,mem=1K"\n'


def asked(tmp_path: Path, *jobs: tuple[str, str | None], sstat: str | None = SSTAT) -> Mapping[str, tuple[str, ...]]:
    """What the remote script says. jobs: each with what the file of its container holds, if there is one."""
    (tmp_path / "bin").mkdir()
    for program in ("sed", "sh"):
        (tmp_path / "bin" / program).symlink_to(f"/usr/bin/{program}")
    if sstat is not None:
        (tmp_path / "bin/sstat").write_text(sstat)
        (tmp_path / "bin/sstat").chmod(0o755)
    words: list[str] = []
    for job, text in jobs:
        directory = tmp_path / f"c{job}"
        directory.mkdir()
        if text is not None:
            (directory / "usage").write_text(text)
        words += [job, str(directory)]
    env = {"PATH": str(tmp_path / "bin"), "CALLS": str(tmp_path / "calls")}
    done = subprocess.run(
        ["/bin/sh", "-s", "--", *words], input=USAGE.encode(), env=env, capture_output=True, check=True
    )
    return facts(done.stdout)


def test_sstat_is_asked_only_about_jobs_that_do_not_tell_themselves(tmp_path: Path) -> None:
    found = asked(tmp_path, ("7", "1 2 3 4\n"), ("8", None), ("9", ""))
    assert found["reading"] == (f"{tmp_path}/c7 1 2 3 4",)
    assert found["sstat"] == ("8.batch|cpu=00:00:02,mem=1K",)
    assert (tmp_path / "calls").read_text().split()[4] == "8,9"
    assert "done" in found


def test_where_all_tell_themselves_sstat_need_not_be_there(tmp_path: Path) -> None:
    assert asked(tmp_path, ("7", "1 2 3 4\n"), ("8", "5 6 7 8"), sstat=None).keys() == {"reading", "done"}


def test_a_cluster_without_sstat_says_so_and_what_is_known_is_told_all_the_same(tmp_path: Path) -> None:
    found = asked(tmp_path, ("7", "1 2 3 4\n"), ("8", None), sstat=None)
    assert found.keys() == {"reading", "stderr"}
    assert found["stderr"] == ("sstat: command not found",)
