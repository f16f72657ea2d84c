"""System calls that this Python has no function for. Stands alone, as the programs that use it do.

Source: unshare(2), setns(2), mount(2), mount_setattr(2), sethostname(2), fallocate(2), prctl(2), linux/sched.h,
linux/mount.h.
"""

import ctypes
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MS_RELATIME = 0x200000

_FALLOC_FL_KEEP_SIZE = 0x1
_FALLOC_FL_PUNCH_HOLE = 0x2
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # of every architecture
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 0x1, 0x4
_MOUNT_ATTR_IDMAP = 0x100000

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_ST_RELATIME = 0x1000  # statvfs(3) has other bits than mount(2) for this one alone

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    _check(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    done = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _check(done, f"mount {source} at {target}")


def bind(source: str, target: str, *, readonly: bool = False) -> None:
    """The flags that a mount already has stay: a user namespace may not take them away."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if readonly:
        _forbid_writes(target)


def _forbid_writes(target: str) -> None:
    has = os.statvfs(target).f_flag
    kept = has & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME)
    kept |= MS_RELATIME if has & _ST_RELATIME else 0
    mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def bind_mapped(source: str, target: str, users: int, *, readonly: bool = False) -> None:
    """Bind with owners as a user namespace, by its descriptor, has them.

    Raises OSError where the kernel or the file system cannot; then nothing is mounted.
    """
    tree = _libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE)
    if tree < 0:
        _check(tree, f"open_tree {source}")
    try:
        attributes = struct.pack("QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, users)
        flags = _AT_EMPTY_PATH | _AT_RECURSIVE
        _check(_libc.syscall(_MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes)), f"mount_setattr {source}")
        done = _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
        _check(done, f"move_mount {target}")
    finally:
        os.close(tree)
    if readonly:
        _forbid_writes(target)


def sethostname(name: str) -> None:
    text = name.encode()
    _check(_libc.sethostname(text, len(text)), "sethostname")


def punch_hole(descriptor: int, length: int) -> None:
    """Give back what the beginning of a file takes on the disk; its size and the rest of it stay."""
    flags = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    _check(_libc.fallocate(descriptor, flags, ctypes.c_int64(0), ctypes.c_int64(length)), "fallocate")


def die_with_parent(signal_number: int) -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


def no_new_privileges() -> None:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
