"""What a process takes up, from outside."""

from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
POOL_THREADS = 4
"""gRPC's pool of threads takes more while there is work, and lets go of them after a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """Of one moment."""

    resident_bytes: int
    descriptors: int
    threads: int

    def __str__(self) -> str:
        return f"{self.resident_bytes / MIB:.1f} MiB, {self.descriptors} descriptors, {self.threads} threads"


def vitals(pid: int) -> Vitals:
    """Source: proc_pid_status(5)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Vitals(
        resident_bytes=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(status["Threads"]),
    )
