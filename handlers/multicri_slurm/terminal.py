"""Runs a container in a terminal of its own, between a pipe and a file: what `script` does, in a job.

The text of this file goes to the container's directory: it needs Python 3.6 and its standard library. The file
``terminal`` there names the terminal, for those who attach and have another size.
"""

import contextlib
import fcntl
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import termios

PIECE_BYTES = 32 * 1024
LOOK_MS = 200
COLUMNS, ROWS = 80, 24
END_OF_INPUT = b"\x04"


def take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def note(name: str) -> None:
    with open("terminal.tmp", "w") as file:
        file.write(name + "\n")
    os.rename("terminal.tmp", "terminal")


def start(words: "list[str]") -> "tuple[subprocess.Popen[bytes], int]":
    """The program, and our end of its terminal."""
    terminal, end = os.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        words, stdin=end, stdout=end, stderr=end, start_new_session=True, preexec_fn=take_terminal
    )
    note(os.ttyname(end))
    os.close(end)
    os.set_blocking(terminal, False)
    return process, terminal


def copy_output(terminal: int) -> bool:
    """Whether there may be more at once."""
    try:
        data = os.read(terminal, PIECE_BYTES)
    except OSError:  # nothing now, or nobody has the terminal any more
        return False
    while data:
        data = data[os.write(1, data) :]
    return True


def serve(process: "subprocess.Popen[bytes]", terminal: int) -> None:
    """Until it has ended, and all that it wrote is copied."""
    waiting = b""
    listens = stat.S_ISFIFO(os.fstat(0).st_mode)
    while process.poll() is None:
        poll = select.poll()
        poll.register(terminal, select.POLLIN | (select.POLLOUT if waiting else 0))
        if listens and not waiting:
            poll.register(0, select.POLLIN)
        for descriptor, event in poll.poll(LOOK_MS):
            if descriptor == 0:
                waiting = os.read(0, PIECE_BYTES)
                listens = bool(waiting)
                waiting = waiting or END_OF_INPUT
            elif event & select.POLLIN:
                copy_output(terminal)
            elif event & select.POLLOUT:
                with contextlib.suppress(OSError):
                    waiting = waiting[os.write(terminal, waiting) :]
            else:  # nobody has it open: the end is near
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_MS / 1000)
    while copy_output(terminal):
        pass


def main() -> None:
    process, terminal = start(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda number, stack: process.terminate())
    serve(process, terminal)
    code = process.returncode
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
