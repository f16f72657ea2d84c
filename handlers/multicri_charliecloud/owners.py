"""Volumes as a container's user has them: who is the user on the disk is, for its processes, who they are on the node.

Stands alone, as the supervisor does. Source: mount_setattr(2), ID-mapped mounts; user_namespaces(7).
"""

import os
import signal
from pathlib import Path

from multicri_charliecloud import kernel

IDS = 2**32 - 1
"""So many there are: the last number is none."""


def swapped(one: int, other: int) -> str:
    """Every id as it is, but these two, each as the other: the lines of a uid_map."""
    if one == other:
        return f"0 0 {IDS}\n"
    low, high = sorted((one, other))
    between, above = high - low - 1, IDS - high - 1
    ranges = [(0, 0, low), (low, high, 1), (low + 1, low + 1, between), (high, low, 1), (high + 1, high + 1, above)]
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges if count)


def user_namespace(users: tuple[int, int], groups: tuple[int, int]) -> int:
    """A descriptor of one in which each of these pairs is swapped. Only for root."""
    ready, made = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(made, b"!")
            signal.pause()
        finally:
            os._exit(1)
    os.close(made)
    try:
        with os.fdopen(ready, "rb") as reader:
            if not reader.read(1):
                raise OSError("no user namespace can be made")
            Path(f"/proc/{pid}/uid_map").write_text(swapped(*users))
            Path(f"/proc/{pid}/gid_map").write_text(swapped(*groups))
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
