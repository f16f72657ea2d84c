"""Between a container's first three files and those in its directory. Stands alone, as the supervisor does.

The container has pipes, as with other runtimes: what opens /dev/stdout anew neither fails nor cuts off what is there.
As long as a disk is full, who writes is held back.
"""

import errno
import os
import pty
import select
from collections.abc import Sequence
from contextlib import suppress

CHUNK_BYTES = 65536
FULL_DISK_PAUSE_S = 1.0


class Relay:
    """One container's. In the directory are ``stdout``, ``stderr`` and, if it has stdin, the pipe ``stdin``.

    files: what the container is to have as its first three. terminal: our end of its terminal, if it has one.
    """

    def __init__(self, *, stdin: bool, stdin_once: bool, tty: bool, owner: Sequence[int] | None) -> None:
        """owner: the user and group who may open the container's files anew; None: ourselves."""
        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        stdout, stderr = (os.open(name, append, 0o600) for name in ("stdout", "stderr"))
        self.terminal: int | None = None
        null = into = None
        if tty:
            self.terminal, slave = pty.openpty()
            self.files = (slave, slave, slave)
            into = os.dup(self.terminal) if stdin else None
            outputs = {self.terminal: stdout}
        else:
            out, its_out = os.pipe()
            err, its_err = os.pipe()
            if stdin:
                its_in, into = os.pipe()
            else:
                its_in = null = os.open(os.devnull, os.O_RDWR)
            self.files = (its_in, its_out, its_err)
            outputs = {out: stdout, err: stderr}
        if owner is not None:
            for file in set(self.files) - {null}:
                os.fchown(file, *owner)
        self._outputs = [_Output(source, target) for source, target in outputs.items()]
        self._input = _Input(into, once=stdin_once) if into is not None else None

    def run(self, pid: int) -> int:
        """Copy until this child has ended and all that it wrote is copied. Returns its status, as `os.waitpid` does."""
        for file in set(self.files):
            os.close(file)
        copiers: list[_Output | _Input] = [*self._outputs, *([self._input] if self._input else [])]
        ended = os.pidfd_open(pid)
        while True:
            reads = [ended, *(one for copier in copiers if (one := copier.wants_to_read()) is not None)]
            writes = [one for copier in copiers if (one := copier.wants_to_write()) is not None]
            pause_s = FULL_DISK_PAUSE_S if any(output.is_held_back() for output in self._outputs) else None
            ready = {file for files in select.select(reads, writes, [], pause_s) for file in files}
            for copier in copiers:
                copier.step(ready)
            if ended in ready:
                break
        for output in self._outputs:
            output.finish()
        return os.waitpid(pid, 0)[1]


class _Output:
    """From a pipe or a terminal to the end of a file."""

    def __init__(self, source: int, target: int) -> None:
        os.set_blocking(source, False)
        self._source: int | None = source
        self._target = target
        self._held = b""

    def is_held_back(self) -> bool:
        return bool(self._held)

    def wants_to_read(self) -> int | None:
        return None if self._held else self._source

    def wants_to_write(self) -> None:
        """The file always takes something, or its disk is full."""

    def step(self, ready: set[int]) -> None:
        if self._held:
            self._write()
        elif self._source in ready:
            self._read()

    def finish(self) -> None:
        """All that is there: nobody is left who could write more."""
        self._write()
        while not self._held and self._read():
            pass

    def _read(self) -> bool:
        """Whether there was something."""
        if self._source is None:
            return False
        try:
            self._held = os.read(self._source, CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # Linux' way to say that nobody has the terminal any more
                raise
        if not self._held:
            os.close(self._source)
            self._source = None
            return False
        self._write()
        return True

    def _write(self) -> None:
        with suppress(OSError):  # a full disk: the rest waits
            while self._held:
                self._held = self._held[os.write(self._target, self._held) :]


class _Input:
    """From the pipe ``stdin``, which whoever attaches writes to, to the container's own.

    once: the container's ends as soon as nobody is left who writes, after the first one did.
    """

    def __init__(self, target: int, *, once: bool) -> None:
        os.set_blocking(target, False)
        how = os.O_RDONLY if once else os.O_RDWR  # who could write itself never sees the end
        self._source: int | None = os.open("stdin", how | os.O_NONBLOCK)
        self._target: int | None = target
        self._held = b""

    def wants_to_read(self) -> int | None:
        return None if self._held else self._source

    def wants_to_write(self) -> int | None:
        return self._target if self._held else None

    def step(self, ready: set[int]) -> None:
        if self._held and self._target in ready:
            self._write()
        elif self._source in ready:
            self._read()

    def _read(self) -> None:
        if self._source is None:
            return
        try:
            data = os.read(self._source, CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            self._held = data if self._target is not None else b""  # one that has closed its own keeps nobody waiting
            return
        for file in (self._source, self._target):
            if file is not None:
                os.close(file)
        self._source = self._target = None

    def _write(self) -> None:
        if self._target is None:
            return
        try:
            self._held = self._held[os.write(self._target, self._held) :]
        except BlockingIOError:
            return
        except OSError:
            os.close(self._target)
            self._held, self._target = b"", None
