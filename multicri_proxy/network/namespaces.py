"""Network namespaces, each kept by a mount of its own, as `ip netns` and containerd have them.

A namespace is a thread's: each step has a thread of its own that ends with it, and no other thread ever changes.
Source: network_namespaces(7), setns(2), mount(2), netdevice(7).
"""

import asyncio
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from multicri_proxy.api.errors import Unavailable

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFREQ = struct.Struct("16sh22x")
_STEP_S = 20.0

_T = TypeVar("_T")


def is_there(path: Path) -> bool:
    """Whether a namespace is mounted at this path. The file alone may be left from a step that was cut off."""
    try:
        return path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except OSError:
        return False


async def make(path: Path) -> None:
    """A new namespace with its loopback interface up. Raises Unavailable."""
    given_up = threading.Event()
    try:
        await _in_thread(f"make {path.name}", partial(_make, path, given_up))
    finally:
        given_up.set()


async def drop(path: Path) -> None:
    """Let go of a namespace; one that is gone already is no error. Raises Unavailable."""
    await _in_thread(f"drop {path.name}", partial(_drop, path))


async def bound(path: Path, ports: Sequence[int]) -> dict[int, socket.socket]:
    """TCP sockets inside of a namespace, by port: bound to all of its addresses, not listening. Raises Unavailable."""
    return await _in_thread(f"bind in {path.name}", partial(_bound, path, ports))


async def _in_thread(name: str, step: Callable[[], _T]) -> _T:
    done: Future[_T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(step())
        except BaseException as error:  # it is raised where it is awaited
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        async with asyncio.timeout(_STEP_S):
            return await asyncio.wrap_future(done)
    except TimeoutError as error:
        raise Unavailable(f"{name}: the kernel did not do it within {_STEP_S:g} s") from error
    except OSError as error:
        raise Unavailable(f"{name}: {error.strerror or error}") from error


def _make(path: Path, given_up: threading.Event) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.touch(mode=0o444)
    _done(_libc().unshare(_CLONE_NEWNET))
    _loopback_up()
    if not given_up.is_set():
        _done(_libc().mount(b"/proc/thread-self/ns/net", os.fsencode(path), b"none", _MS_BIND, None))


def _drop(path: Path) -> None:
    try:
        _done(_libc().umount2(os.fsencode(path), _MNT_DETACH))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # no mount, no file
            raise
    path.unlink(missing_ok=True)


def _bound(path: Path, ports: Sequence[int]) -> dict[int, socket.socket]:
    with path.open("rb") as namespace:
        _done(_libc().setns(namespace.fileno(), _CLONE_NEWNET))
    with ExitStack() as undone:
        sockets = {port: undone.enter_context(_bound_socket(port)) for port in ports}
        undone.pop_all()
    return sockets


def _bound_socket(port: int) -> socket.socket:
    """For both families, where the kernel has both."""
    with suppress(OSError):
        return _bound_to(socket.AF_INET6, "::", port)
    return _bound_to(socket.AF_INET, "0.0.0.0", port)  # noqa: S104  (of the pod's namespace)


def _bound_to(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        name, flags = _IFREQ.unpack(answer)
        fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ.pack(name, flags | 1))  # IFF_UP


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _done(code: int) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
