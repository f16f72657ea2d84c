"""What running jobs use: sstat's words, and their sum."""

from multicri_slurm.answers import StepUsage, sstat_usage
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
            "batch": StepUsage(cpu_ns=2 * S, memory_bytes=112_888 * 1024),
            "0": StepUsage(cpu_ns=90_061 * S + S // 2, memory_bytes=2_621_440),
        },
        2: {"extern": StepUsage(cpu_ns=0, memory_bytes=0)},
    }
    assert sstat_usage(["1.batch|cpu=00:00:02,mem=1K"]).keys() == {JobId(1)}


def test_a_jobs_processor_time_never_goes_back_when_one_of_its_steps_has_ended() -> None:
    meter = Meter()
    meter.read(
        {"batch": StepUsage(cpu_ns=1 * S, memory_bytes=10), "0": StepUsage(cpu_ns=5 * S, memory_bytes=90)}, 10 * S
    )
    assert meter.usage == Usage(measured_at_ns=10 * S, cpu_ns=6 * S, memory_bytes=100)
    meter.read({"batch": StepUsage(cpu_ns=2 * S, memory_bytes=11)}, 14 * S)
    assert meter.usage == Usage(measured_at_ns=14 * S, cpu_ns=7 * S, cpu_nano_cores=S // 4, memory_bytes=11)
