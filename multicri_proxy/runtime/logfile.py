"""A container's log file: appended to, rotated by the kubelet, and found again after a crash. Blocks: for threads."""

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.runtime.logs import Entry, consumed_bytes, entry_lines
from multicri_proxy.runtime.records import LogPosition

_NOTHING_READ = dict.fromkeys(OutputStream, 0)


class LogFile:
    """One file for both streams of a container.

    directory: the pod's log directory. path: relative to it, without ``..``.
    position: as it was saved last; None for a new container.
    """

    def __init__(self, directory: str, path: str, position: LogPosition | None) -> None:
        self._directory = directory
        self._path = PurePosixPath(path)
        self._position = position
        self._descriptor = -1
        # A thread goes on when the task that waits for it is cancelled, so asyncio's lock would not do.
        self._lock = threading.Lock()

    @property
    def position(self) -> LogPosition | None:
        """What the file and the streams are now: always consistent, for it changes after each write at once."""
        return self._position

    def read_bytes(self, stream: OutputStream) -> int:
        """How much of the stream is in a log file."""
        return self._position.read_bytes[stream] if self._position else 0

    def ended(self, stream: OutputStream) -> bool:
        """Is all of the stream in a log file?"""
        return self._position is not None and stream in self._position.ended

    def open(self) -> None:
        """Open the file, if it is not, and cut off what was written after the position was saved: it comes again."""
        with self._lock:
            if self._descriptor < 0:
                self._descriptor = self._opened()
                self._position = self._resumed(self._descriptor)

    def append(self, stream: OutputStream, entries: Sequence[Entry]) -> None:
        """Write all of these entries or, if that fails, none."""
        self._write(stream, entries, consumed_bytes(entries))

    def note(self, text: str) -> None:
        """Write a line that neither stream has, among those of stderr. Raises OSError, as `append` does."""
        entries = [Entry(line.encode("utf-8", "replace"), ends_line=True) for line in text.splitlines()]
        self._write(OutputStream.STDERR, entries, 0)

    def _write(self, stream: OutputStream, entries: Sequence[Entry], read_bytes: int) -> None:
        """read_bytes: how much of the stream these entries are."""
        data = entry_lines(entries, stream, time.time_ns())
        with self._lock:
            position = self._position
            if position is None or self._descriptor < 0:
                raise OSError("the log file is not open")
            try:
                _write_all(self._descriptor, data)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, position.size_bytes)
                self._close()  # `open` cuts off whatever is still there
                raise
            read = position.read_bytes[stream] + read_bytes
            self._position = replace(
                position,
                size_bytes=position.size_bytes + len(data),
                read_bytes={**position.read_bytes, stream: read},
            )

    def end(self, stream: OutputStream) -> None:
        """There is no more of this stream."""
        with self._lock:
            if self._position is not None:
                self._position = replace(self._position, ended=self._position.ended | {stream})

    def reopen(self) -> None:
        """The kubelet has moved the file away: go on in a new one."""
        with self._lock:
            descriptor = self._opened()
            self._close()
            self._descriptor = descriptor
            self._position = _first_position(os.fstat(descriptor), self._position)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _opened(self) -> int:
        """Open the file, making its directories; below the pod's log directory no link is followed."""
        os.makedirs(self._directory, mode=0o755, exist_ok=True)  # noqa: PTH103 - Path.mkdir makes parents 0777
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in self._path.parts[:-1]:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=directory)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                below = os.open(part, flags, dir_fd=directory)
                os.close(directory)
                directory = below
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(self._path.name, flags, 0o640, dir_fd=directory)
        finally:
            os.close(directory)

    def _resumed(self, descriptor: int) -> LogPosition:
        found = os.fstat(descriptor)
        before = self._position
        if before is None:
            return _first_position(found, None)
        if before.inode != found.st_ino:
            self._cut_rotated(before)
            return _first_position(found, before)
        if found.st_size > before.size_bytes:
            os.ftruncate(descriptor, before.size_bytes)
        if found.st_size >= before.size_bytes:
            return before
        # A power cut took the end of the file, for it is not synced: begin this file again.
        start = min(before.start_bytes, found.st_size)
        os.ftruncate(descriptor, start)
        return replace(
            before,
            size_bytes=start,
            read_bytes=before.start_read_bytes,
            start_bytes=start,
            ended=frozenset(),
        )

    def _cut_rotated(self, before: LogPosition) -> None:
        """The kubelet moved our file away, and we were killed before the new one: what it got since comes again."""
        with os.scandir(PurePosixPath(self._directory) / self._path.parent) as entries:
            rotated = next((entry for entry in entries if entry.inode() == before.inode), None)
            if rotated and rotated.is_file(follow_symlinks=False) and rotated.stat().st_size > before.size_bytes:
                os.truncate(rotated.path, before.size_bytes)


def _first_position(found: os.stat_result, before: LogPosition | None) -> LogPosition:
    read = dict(before.read_bytes) if before else dict(_NOTHING_READ)
    return LogPosition(
        inode=found.st_ino,
        size_bytes=found.st_size,
        read_bytes=read,
        start_bytes=found.st_size,
        start_read_bytes=read,
        ended=before.ended if before else frozenset(),
    )


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
