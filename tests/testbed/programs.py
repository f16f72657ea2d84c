"""Runs programs: short ones to their end, daemons in the background, and waits for conditions with a deadline."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Nothing of the caller's environment (SLURM_CONF, a pyenv's PATH, proxies, locales) reaches what the bed starts.
CLEAN_ENV: Mapping[str, str] = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
TAIL_LINES = 25
POLL_S = 0.02


class TestbedError(Exception):
    """A step of the test bed failed; the message ends with the tail of the log of what failed."""

    __test__ = False  # pytest: not a test class


def tail_of(text: str, lines: int = TAIL_LINES) -> str:
    return "\n".join(text.rstrip().splitlines()[-lines:])


def tail_of_file(path: Path | None) -> str:
    if path is None or not path.exists():
        return ""
    return f"\n--- {path}\n{tail_of(path.read_text(errors='replace'))}"


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: str | None = None,
    env: Mapping[str, str] = CLEAN_ENV,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in a process group of its own that a timeout kills whole.

    Raises TestbedError on a timeout and, with check, on an exit code other than 0.
    """
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env),
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TestbedError(f"{' '.join(argv)}: no end after {timeout_s} s") from error
            raise
    if check and process.returncode != 0:
        raise TestbedError(f"{' '.join(argv)}: exit code {process.returncode}\n{tail_of(stdout + stderr)}")
    return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)


def wait_until(what: str, condition: Callable[[], bool], *, timeout_s: float, log: Path | None = None) -> None:
    """Poll a condition until it holds.

    Raises TestbedError, with the tail of the log, when it does not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TestbedError(f"{what}: not so after {timeout_s} s{tail_of_file(log)}")
        time.sleep(POLL_S)


def started_at(pid: int) -> str | None:
    """The start time of a live process in clock ticks since boot; None if there is none, or only a zombie.

    Source: proc_pid_stat(5), fields 3 and 22.
    """
    with contextlib.suppress(ChildProcessError):  # reap it, should it be our own child
        os.waitpid(pid, os.WNOHANG)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A background program that outlives the process that started it, known by a file with its pid and start time."""

    name: str
    argv: tuple[str, ...]
    pid_file: Path
    log: Path

    @property
    def pid(self) -> int | None:
        """Its pid while it lives. A pid that the kernel has since given to another process does not count."""
        try:
            pid, started = self.pid_file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if started_at(int(pid)) == started else None

    def start(self) -> int:
        """Start it in a session of its own, output appended to the log; return its pid. No-op while it lives."""
        if (pid := self.pid) is not None:
            return pid
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # posix_spawn and not Popen: a Popen object complains when it is dropped while its program still runs.
        pid = os.posix_spawnp(
            self.argv[0],
            self.argv,
            CLEAN_ENV,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM),  # Python ignores SIGPIPE, children inherit that
        )
        self.pid_file.write_text(f"{pid} {started_at(pid)}\n")
        return pid

    def signal(self, number: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, *, timeout_s: float = 10) -> None:
        """SIGTERM, then SIGKILL for what is still there after timeout_s; return when it is gone."""
        self.signal(signal.SIGTERM)
        try:
            wait_until(f"{self.name} ends on SIGTERM", lambda: self.pid is None, timeout_s=timeout_s)
        except TestbedError:
            self.kill()
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL; return when it is gone."""
        self.signal(signal.SIGKILL)
        wait_until(f"{self.name} ends on SIGKILL", lambda: self.pid is None, timeout_s=60)
        self.pid_file.unlink(missing_ok=True)

    def wait_ready(self, what: str, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until it is ready. Raises TestbedError, with the tail of its log, if it ends or takes too long."""

        def ready_or_dead() -> bool:
            if self.pid is None:
                raise TestbedError(f"{self.name} ended while starting{tail_of_file(self.log)}")
            return ready()

        wait_until(f"{self.name}: {what}", ready_or_dead, timeout_s=timeout_s, log=self.log)
