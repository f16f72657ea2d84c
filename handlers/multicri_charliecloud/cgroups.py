"""Control groups for containers, where the node lets us make some: their limits, and what is used in them.

Both versions of Linux' control groups. A group stands for its paths, as in `cgroup_member`: by controller, of version 2
by the empty name. On the disk, so to speak: not for the event loop.
Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of Linux.
"""

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from multicri_charliecloud.cgroup_member import number_in
from multicri_proxy.api.adapter import Resources
from multicri_proxy.api.errors import FailedPrecondition

UNIFIED = ""
CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")
UNIFIED_CONTROLLERS = ("memory", "cpu", "pids")
BASE = "multicri-charliecloud"

PERIOD_US = 100_000
LEAST_QUOTA_US = 1000
LEAST_SHARES, MOST_SHARES = 2, 262_144
SHARES_PER_CPU = 1024
MOST_WEIGHT = 10_000

Group = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """mounts: of the hierarchies, tops: below which groups are ours to make; both by controller or `UNIFIED`."""

    mounts: Mapping[str, Path]
    tops: Mapping[str, Path]

    @classmethod
    def found(cls, mount: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> "Cgroups | None":
        """own: what /proc/self/cgroup says. None: nothing is delegated to us."""
        own = Path("/proc/self/cgroup").read_text() if own is None else own
        if (mount / "cgroup.controllers").exists():
            mounts = {UNIFIED: mount}
        else:
            mounts = {name: mount / name for name in CONTROLLERS if (mount / name).is_dir()}
        tops = {}
        for name, path in mounts.items():
            if (top := _topmost(path, _own_path(own, name), with_own=name != UNIFIED)) is not None:
                tops[name] = top
        return cls(mounts=mounts, tops=tops) if tops else None

    def group(self, name: str, parent: str) -> Group:
        """One that is yet to be made. parent: of the pod, by the kubelet; it may be empty, or not ours to use.

        Raises FailedPrecondition if that is no path.
        """
        inner = inner_path(parent)
        group = {}
        for controller, top in self.tops.items():
            above = self.mounts[controller] / inner
            if not inner or not above.is_dir() or not os.access(above, os.W_OK):
                above = top / BASE
            group[controller] = str(above / name)
        return group

    def make(self, group: Group) -> None:
        """Empty, with all of our controllers. Raises FailedPrecondition."""
        try:
            for controller, text in group.items():
                path, top = Path(text), self.tops[controller]
                path.parent.mkdir(exist_ok=True)
                if controller == UNIFIED:
                    _enable(top, path.parent)
                path.mkdir(exist_ok=True)
        except OSError as error:
            raise FailedPrecondition(f"a control group cannot be made: {error}") from error


def inner_path(parent: str) -> str:
    """Below the mount point, of what CRI calls cgroup_parent: a path, or the name of a slice of systemd's.

    Raises FailedPrecondition.
    """
    if ".." in parent.split("/") or "\0" in parent:
        raise FailedPrecondition(f"cgroup_parent {parent!r}: must be a path without '..'")
    if "/" in parent or not parent.endswith(".slice"):
        return parent.strip("/")
    words = parent.removesuffix(".slice").split("-")
    return "/".join("-".join(words[: end + 1]) + ".slice" for end in range(len(words)))


def limit(group: Group, wanted: Resources) -> list[str]:
    """What is None stays as it is, 0 is no limit. Returns what cannot be limited there, by its name in a pod.

    Raises FailedPrecondition if Linux does not take it: a container that holds more than its new limit.
    """
    lacking = []
    if wanted.memory_bytes is not None and not _limit_memory(group, wanted.memory_bytes):
        lacking.append("memory")
    if wanted.cpu_millicores is not None and not _limit_cpu(group, wanted.cpu_millicores):
        lacking.append("cpu")
    if wanted.cpu_request_millicores is not None:
        _weigh_cpu(group, wanted.cpu_request_millicores)
    return lacking


def _limit_memory(group: Group, limit_bytes: int) -> bool:
    """Of swap it gets none, as the kubelet has it; and all of a container ends if one of its processes must."""
    if (path := group.get(UNIFIED)) is not None:
        _set(path, "memory.oom.group", "1")
        _set(path, "memory.swap.max", "0")
        return _set(path, "memory.max", str(limit_bytes or "max"))
    if (path := group.get("memory")) is None:
        return False
    text = str(limit_bytes or -1)
    names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]  # the second one is never below the first one
    with suppress(OSError):
        before = int(Path(path, names[0]).read_text())
        if limit_bytes == 0 or limit_bytes > before:
            names.reverse()
    return [_set(path, name, text) for name in names].count(True) > 0


def _limit_cpu(group: Group, millicores: int) -> bool:
    quota_us = max(LEAST_QUOTA_US, millicores * PERIOD_US // 1000)
    if (path := group.get(UNIFIED)) is not None:
        return _set(path, "cpu.max", f"{quota_us if millicores else 'max'} {PERIOD_US}")
    if (path := group.get("cpu")) is None:
        return False
    _set(path, "cpu.cfs_period_us", str(PERIOD_US))
    return _set(path, "cpu.cfs_quota_us", str(quota_us if millicores else -1))


def _weigh_cpu(group: Group, millicores: int) -> None:
    shares = min(MOST_SHARES, max(LEAST_SHARES, millicores * SHARES_PER_CPU // 1000))
    if (path := group.get(UNIFIED)) is not None:
        _set(path, "cpu.weight", str(weight_of(shares)))
    elif (path := group.get("cpu")) is not None:
        _set(path, "cpu.shares", str(shares))


def weight_of(shares: int) -> int:
    """As the kubelet and runc have it: both ranges on one line."""
    return 1 + (shares - LEAST_SHARES) * (MOST_WEIGHT - 1) // (MOST_SHARES - LEAST_SHARES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """cpu_ns: since the group was made. memory_bytes: without what the kernel can take back at once."""

    cpu_ns: int | None = None
    memory_bytes: int | None = None


def used(group: Group) -> Used:
    """What is not counted there, or not any more, is None."""
    cpu_ns = memory_bytes = None
    if (path := group.get(UNIFIED)) is not None:
        with suppress(OSError, ValueError):
            cpu_ns = number_in(f"{path}/cpu.stat", "usage_usec") * 1000
        with suppress(OSError, ValueError):
            memory_bytes = _number(f"{path}/memory.current") - number_in(f"{path}/memory.stat", "inactive_file")
    else:
        with suppress(OSError, ValueError, KeyError):
            cpu_ns = _number(f"{group['cpuacct']}/cpuacct.usage")
        with suppress(OSError, ValueError, KeyError):
            path = group["memory"]
            memory_bytes = _number(f"{path}/memory.usage_in_bytes")
            memory_bytes -= number_in(f"{path}/memory.stat", "total_inactive_file")
    return Used(cpu_ns=cpu_ns, memory_bytes=None if memory_bytes is None else max(0, memory_bytes))


def _topmost(mount: Path, own: str, *, with_own: bool) -> Path | None:
    """The highest group above our own that is ours to change.

    with_own: our own may be it. In version 2 a group that has processes can have no groups with limits below it, unless
    it is the highest of all.
    """
    parts = [part for part in own.split("/") if part]
    for depth in range(len(parts) + 1):
        path = mount.joinpath(*parts[:depth])
        is_own = depth == len(parts) and depth > 0
        files = [path, path / "cgroup.procs", *([] if with_own else [path / "cgroup.subtree_control"])]
        if (with_own or not is_own) and all(os.access(file, os.W_OK) for file in files):
            return path
    return None


def _own_path(own: str, controller: str) -> str:
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return "/"


def _enable(top: Path, bottom: Path) -> None:
    """Each controller that is there, for what is below the bottom."""
    below = bottom.relative_to(top).parts if bottom.is_relative_to(top) else ()
    for path in (top.joinpath(*below[:depth]) for depth in range(len(below) + 1)):
        for name in UNIFIED_CONTROLLERS:
            with suppress(OSError):
                (path / "cgroup.subtree_control").write_text(f"+{name}")


def _number(path: str) -> int:
    return int(Path(path).read_text())


def _set(path: str, name: str, value: str) -> bool:
    """Whether there is such a file. Raises FailedPrecondition if the kernel refuses the value."""
    file = Path(path, name)
    if not file.exists():
        return False
    try:
        with file.open("w") as opened:
            opened.write(value)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise FailedPrecondition(f"{file}: Linux does not take {value}: {os.strerror(error.errno or 0)}") from error
    return True
