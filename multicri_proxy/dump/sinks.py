"""Where dumped text goes. Sinks block: each belongs to one thread of the dumper's own."""

import errno
import os
import select
import stat
import threading
from pathlib import Path
from typing import Protocol

_POLL_MS = 200
_CHUNK_BYTES = 4096
"""PIPE_BUF: what a pipe that poll(2) calls writable takes without blocking."""


class Sink(Protocol):
    """Takes one piece of text after the other."""

    def write(self, data: bytes) -> None:
        """Raises OSError if the text, or a part of it, could not be written."""
        ...

    def abandon(self) -> None:
        """From any thread: give up waiting, now and later."""
        ...

    def close(self) -> None: ...


class StreamSink:
    """A descriptor that may be slow: stderr, a pipe, a socket. owned: it is closed in the end."""

    def __init__(self, descriptor: int, *, owned: bool) -> None:
        self._descriptor = descriptor
        self._owned = owned
        self._abandoned = threading.Event()

    def write(self, data: bytes) -> None:
        write_all(self._descriptor, data, self._abandoned)

    def abandon(self) -> None:
        self._abandoned.set()

    def close(self) -> None:
        if self._owned:
            os.close(self._descriptor)


class FileSink:
    """A file, mode 0600, that is appended to and rotated: ``path``, ``path.1``, … ``path.<files - 1>``.

    What is there is never truncated, a symbolic link never followed. A FIFO without a reader is an error of the write.
    """

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._abandoned = threading.Event()
        self._descriptor = -1
        self._size = 0
        self._rotates = False
        self._torn = False
        """The last line was cut short."""

    def write(self, data: bytes) -> None:
        if self._descriptor < 0:
            self._open()
        if self._rotates and self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        whole = b"\n" + data if self._torn else data
        try:
            write_all(self._descriptor, whole, self._abandoned)
        except OSError:
            self.close()
            raise
        self._torn = False
        self._size += len(whole)

    def abandon(self) -> None:
        self._abandoned.set()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
        if self._path.exists() and not self._path.is_file():
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY  # a FIFO, say
        self._descriptor = os.open(self._path, flags, 0o600)
        try:
            self._look()
        except OSError:
            self.close()
            raise

    def _look(self) -> None:
        found = os.fstat(self._descriptor)
        self._rotates = stat.S_ISREG(found.st_mode)
        if not self._rotates:
            return
        if found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"it belongs to user {found.st_uid}", str(self._path))
        os.fchmod(self._descriptor, 0o600)
        self._size = found.st_size
        self._torn = bool(self._size) and os.pread(self._descriptor, 1, self._size - 1) != b"\n"

    def _rotate(self) -> None:
        self.close()
        names = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, self._files))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            if os.path.lexists(newer):
                newer.replace(older)
        if self._files == 1:
            self._path.unlink()
        self._open()


def write_all(descriptor: int, data: bytes, abandoned: threading.Event) -> None:
    """Write everything, waiting as long as it takes or until it is given up. Raises OSError."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    rest = memoryview(data)
    while rest:
        if abandoned.is_set():
            raise InterruptedError(errno.ECANCELED, "given up")
        if poller.poll(_POLL_MS):
            try:
                rest = rest[os.write(descriptor, rest[:_CHUNK_BYTES]) :]
            except BlockingIOError:
                continue
