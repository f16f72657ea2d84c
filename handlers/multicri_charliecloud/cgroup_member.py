"""What a process does with a container's control groups: join them, ask how often memory ran out there, remove them.
Stands alone, as the programs that use it do.

paths: each group's directory, by controller; of version 2 there is one, by the empty name.
Source: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst of Linux.
"""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

REMOVE_ATTEMPTS = 20
REMOVE_PAUSE_S = 0.05


def join(paths: Mapping[str, str], pid: int) -> None:
    """Before it runs anything. Raises OSError."""
    for path in paths.values():
        _write(f"{path}/cgroup.procs", str(pid))


def oom_kills(paths: Mapping[str, str]) -> int:
    """How many processes the kernel has killed there, because memory had run out."""
    files = [f"{path}/memory.events" for name, path in paths.items() if not name]
    files += [f"{path}/memory.oom_control" for name, path in paths.items() if name == "memory"]
    for file in files:
        with suppress(OSError, ValueError):
            return number_in(file, "oom_kill")
    return 0


def remove(paths: Iterable[str]) -> bool:
    """Those of a container that has ended. Whether all are gone: a command that somebody runs in it may still end."""
    left = list(paths)
    for _ in range(REMOVE_ATTEMPTS):
        left = [path for path in left if not _removed(path)]
        if not left:
            return True
        time.sleep(REMOVE_PAUSE_S)
    return False


def number_in(path: str, name: str) -> int:
    """Of a file with a name and a number in each line. Raises OSError, ValueError if it is not there."""
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123  (pathlib would be all that needs it)
        for line in file:
            words = line.split()
            if len(words) == 2 and words[0] == name:
                return int(words[1])
    raise ValueError(f"{path} has no {name}")


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)  # noqa: PTH106
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
