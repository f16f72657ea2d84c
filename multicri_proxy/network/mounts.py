"""Whether what is mounted here is mounted for the whole machine, as pods' network namespaces have to be.

A unit of systemd's with ProtectHome, ProtectSystem or PrivateTmp has mounts of its own, and they end with it.
Source: mount_namespaces(7), proc_pid_mountinfo(5), systemd.exec(5) PrivateMounts.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

PROC = Path("/proc")


def lead_out(directory: Path, proc: Path = PROC) -> bool:
    """Whether others see a mount below this directory. True also where it cannot be known."""
    try:
        if (proc / "self/ns/mnt").readlink() == (proc / "1/ns/mnt").readlink():
            return True
        lines = (proc / "self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return True
    return propagates(directory, lines)


def propagates(directory: Path, mountinfo: Iterable[str]) -> bool:
    """Whether the mount that holds a directory passes mounts on to its peers, and is nobody's slave.

    A slave may be shared too: but only with those that are made out of it.
    """
    found, tags = PurePosixPath("/"), set[str]()
    for line in mountinfo:
        before, _, _ = line.partition(" - ")
        fields = before.split(" ")
        point = PurePosixPath(fields[4].encode().decode("unicode_escape"))
        if directory.is_relative_to(point) and point.is_relative_to(found):
            found, tags = point, {tag.partition(":")[0] for tag in fields[6:]}
    return "shared" in tags and "master" not in tags
