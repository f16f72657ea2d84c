"""What containers use, from /proc: for a node that delegates no control groups. Blocks: for threads.

Source: proc_pid_stat(5), proc_pid_statm(5), namespaces(7).
"""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from multicri_charliecloud.cgroups import Used

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def used_by(pids: Collection[int], proc: Path = Path("/proc")) -> dict[int, Used]:
    """By the first process of each container: all processes of its PID namespace together.

    Processor time is that of those who live, and of the children that they have waited for.
    """
    owners = {namespace: pid for pid in pids if (namespace := _namespace(proc / str(pid))) is not None}
    found: dict[int, Used] = {}
    with suppress(OSError):
        for entry in os.scandir(proc):
            if not entry.name.isdecimal():
                continue
            owner = owners.get(_namespace(Path(entry.path)) or "")
            if owner is None:
                continue
            with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
                one = _used_by_one(Path(entry.path))
                found[owner] = _sum(found.get(owner, Used(cpu_ns=0, memory_bytes=0)), one)
    return found


def _used_by_one(process: Path) -> Used:
    times = process.joinpath("stat").read_bytes().rpartition(b")")[2].split()[11:15]
    resident, shared = process.joinpath("statm").read_bytes().split()[1:3]
    return Used(cpu_ns=sum(map(int, times)) * TICK_NS, memory_bytes=(int(resident) - int(shared)) * PAGE_BYTES)


def _sum(one: Used, other: Used) -> Used:
    return Used(
        cpu_ns=(one.cpu_ns or 0) + (other.cpu_ns or 0),
        memory_bytes=(one.memory_bytes or 0) + (other.memory_bytes or 0),
    )


def _namespace(process: Path) -> str | None:
    try:
        return str(process.joinpath("ns/pid").readlink())
    except OSError:
        return None
