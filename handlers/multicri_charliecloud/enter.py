"""The process that runs one more command in a container. It runs alone, without the project's other packages.

What to do is in the file that argv names by its descriptor. It ends as the command does, with 128 + n for signal n;
SIGTERM, and the end of the daemon, kill the command's session.
"""

import fcntl
import json
import os
import signal
import stat
import sys
import termios
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from multicri_charliecloud import kernel
from multicri_charliecloud.cgroup_member import join
from multicri_charliecloud.supervisor import close_others, start_time

CANNOT_ENTER_EXIT_CODE = 126
NOT_FOUND_EXIT_CODE = 127


def main() -> None:
    kernel.die_with_parent(signal.SIGTERM)
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        job: dict[str, Any] = json.load(file)
    close_others()
    try:
        join(job["cgroup"], os.getpid())
        with suppress(OSError):  # the daemon's own may be that of a process never to be killed
            Path("/proc/self/oom_score_adj").write_text(str(job["oom_score_adj"]))
        _enter(job)
        kernel.die_with_parent(signal.SIGTERM)  # another user has to say so again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        child = os.fork()
        if child == 0:
            _become(job)
    except OSError as error:
        sys.stderr.write(f"the container cannot be entered: {error}\n")
        sys.exit(CANNOT_ENTER_EXIT_CODE)

    def end(number: int, frame: FrameType | None) -> None:
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError):
                kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def _enter(job: dict[str, Any]) -> None:
    """Into the namespaces of the container's first process.

    The user namespace comes last: with it goes the right to enter those that others own. Where the supervisor has one
    of its own, as an ordinary user's, that comes first.
    """
    pid, supervisor = job["pid"], job["supervisor_pid"]
    kinds = {
        "net": kernel.CLONE_NEWNET,
        "uts": kernel.CLONE_NEWUTS,
        "ipc": kernel.CLONE_NEWIPC,
        "pid": kernel.CLONE_NEWPID,
        "mnt": kernel.CLONE_NEWNS,
        "user": kernel.CLONE_NEWUSER,
    }
    files = {name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in kinds}
    outer = os.open(f"/proc/{supervisor}/ns/user", os.O_RDONLY)
    if start_time(pid) != job["start_time"]:
        raise ProcessLookupError("it has ended")
    if job["identity"] is None:
        kernel.setns(outer, kernel.CLONE_NEWUSER)
    foreign = [name for name in kinds if Path(f"/proc/self/ns/{name}").stat().st_ino != os.fstat(files[name]).st_ino]
    for name in foreign:
        if name != "user":
            kernel.setns(files[name], kinds[name])
    if job["identity"] is not None:
        user, group = job["identity"]
        for number in range(3):
            if stat.S_ISFIFO(os.fstat(number).st_mode):  # so that /dev/stdout can be opened anew
                os.fchown(number, user, group)
        os.setgroups(job["groups"])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    kernel.setns(files["user"], kernel.CLONE_NEWUSER)


def _become(job: dict[str, Any]) -> None:
    """In the child. Never returns."""
    code = CANNOT_ENTER_EXIT_CODE
    try:
        os.setsid()
        if job["tty"]:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        kernel.no_new_privileges()
        os.umask(0o022)
        os.chdir(job["working_dir"])
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        kernel.die_with_parent(signal.SIGKILL)
        variables = {name: os.fsencode(value) for name, value in job["variables"].items()}
        os.execvpe(job["command"][0], job["command"], variables)  # noqa: S606
    except FileNotFoundError as error:
        code = NOT_FOUND_EXIT_CODE
        os.write(2, f"{job['command'][0]}: {error.strerror}\n".encode())
    except BaseException as error:
        os.write(2, f"{error}\n".encode())
    os._exit(code)
