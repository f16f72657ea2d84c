"""One host of the cluster: namespaces, an overlay root, an address on the bridge, and daemons that tests may stop."""

import ipaddress
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from testbed.programs import Daemon, TestbedError, run, wait_until
from testbed.settings import Settings

HostName = Literal["login", "cn1", "cn2"]

INIT = Path(__file__).with_name("host-init.sh")
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_CONTROLLERS = ("memory", "freezer", "cpuset", "cpu", "cpuacct", "devices", "pids")
CGROUP_PREFIX = "mcri-"
# Joins the host's cgroups, then becomes the program. Arguments: the cgroup directories in one word, the program.
JOIN = 'for group in $1; do echo $$ > "$group/cgroup.procs"; done; shift; exec "$@"'
READY = Path("run/testbed-ready")
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDaemon:
    """A program that daemonizes itself inside a host and writes its pid, as that host numbers it, to a file."""

    name: str
    argv: tuple[str, ...]
    pid_file: Path
    log: Path
    """Both paths without the leading slash, below the host's root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    settings: Settings
    name: HostName
    address: ipaddress.IPv4Address
    root: Path
    """The lower layer of its root file system."""

    @property
    def directory(self) -> Path:
        return self.settings.run / "cluster" / self.name

    @property
    def upper(self) -> Path:
        """The host's own layer of its root file system; files put here before boot are there after it."""
        return self.directory / "upper"

    @property
    def interface(self) -> str:
        """The end of its link on this machine."""
        return f"mcri-{self.name}"

    @property
    def daemon(self) -> Daemon:
        controllers = CGROUP_CONTROLLERS if self.settings.memory_limits else ()
        unshare = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child"]
        unshare += ["--propagation", "private"] + (["--cgroup"] if controllers else [])
        home = self.settings.run / "cluster/home"
        init = [str(INIT), self.name, str(self.root), str(self.directory), str(home), *controllers]
        return Daemon(
            name=f"host {self.name}",
            argv=tuple(self._joined([*unshare, *init])),
            pid_file=self.directory / "unshare.pid",
            log=self.directory / "init.log",
        )

    @property
    def init_pid(self) -> int | None:
        """The pid, on this machine, of the host's PID 1; None unless the host has booted."""
        pid = self.daemon.pid
        if pid is None:
            return None
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            return None
        if not children or not Path(f"/proc/{children[0]}/root", READY).exists():
            return None
        return int(children[0])

    def path(self, inside: Path | str) -> Path:
        """Where a file of the running host is to be found on this machine. Raises TestbedError if it is down."""
        pid = self.init_pid
        if pid is None:
            raise TestbedError(f"host {self.name} is down")
        return Path(f"/proc/{pid}/root", str(inside).lstrip("/"))

    def boot(self) -> None:
        for directory in (self.upper, self.directory / "work", self.directory / "root"):
            directory.mkdir(parents=True, exist_ok=True)
        for group in self._cgroups():
            group.mkdir(exist_ok=True)
            if group.parent.name == "cpuset":  # without these no process may join
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (group / file).write_text((group.parent / file).read_text())
        self.daemon.start()
        self.daemon.wait_ready("has booted", lambda: self.init_pid is not None, timeout_s=60)
        self._plug_in()

    def power_off(self) -> None:
        """Kill the host's PID 1; the kernel kills all else in it, and its mounts and its link go with it."""
        self.daemon.kill()
        for group in self._cgroups():
            wait_until(f"{group} is empty", partial(remove_cgroup, group), timeout_s=60)

    def cut_link(self) -> None:
        """Take its network link down; the host and its daemons go on."""
        run(["ip", "link", "set", self.interface, "down"], timeout_s=60)

    def mend_link(self) -> None:
        run(["ip", "link", "set", self.interface, "up"], timeout_s=60)

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        stdin: str | None = None,
        timeout_s: float = 60,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the host, as sshd would for that user, but without sshd.

        Raises TestbedError if the host is down, on a timeout and, with check, on an exit code other than 0.
        """
        return run(self.argv_inside(argv, user=user), timeout_s=timeout_s, stdin=stdin, check=check)

    def start_daemon(self, daemon: HostDaemon) -> None:
        """Start it; return when it has written its pid file. No-op while it runs."""
        if self.daemon_pid(daemon) is not None:
            return
        self.path(daemon.pid_file).unlink(missing_ok=True)
        self.run(daemon.argv, timeout_s=60, check=True)
        log = self.path(daemon.log)
        wait_until(f"{daemon.name} on {self.name} runs", lambda: bool(self.daemon_pid(daemon)), timeout_s=60, log=log)

    def stop_daemon(self, daemon: HostDaemon, *, signal_number: signal.Signals = signal.SIGTERM) -> None:
        """Signal it; return when it is gone. No-op unless it runs."""
        pid = self.daemon_pid(daemon)
        if pid is None:
            return
        self.run(["kill", f"-{signal_number.value}", str(pid)])
        log = self.path(daemon.log)
        wait_until(f"{daemon.name} on {self.name} ends", lambda: not self._has_process(pid), timeout_s=60, log=log)

    def daemon_pid(self, daemon: HostDaemon) -> int | None:
        """Its pid as the host numbers it, while it runs."""
        try:
            pid = int(self.path(daemon.pid_file).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._has_process(pid) else None

    def _has_process(self, pid: int) -> bool:
        try:
            return self.path(f"proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _plug_in(self) -> None:
        pid = str(self.init_pid)
        run(
            ["ip", "link", "add", self.interface, "type", "veth", "peer", "name", "eth0", "netns", pid],
            timeout_s=60,
        )
        run(["ip", "link", "set", self.interface, "master", self.settings.cluster_bridge, "up"], timeout_s=60)
        prefix = self.settings.cluster_network.prefixlen
        commands = f"address add {self.address}/{prefix} dev eth0\nlink set eth0 up\nlink set lo up\n"
        run(["nsenter", "--target", pid, "--net", "ip", "-batch", "-"], timeout_s=60, stdin=commands)

    def argv_inside(self, argv: Sequence[str], *, user: str) -> list[str]:
        """What to execute on this machine in order to run argv inside. Raises TestbedError if the host is down."""
        pid = self.init_pid
        if pid is None:
            raise TestbedError(f"host {self.name} is down")
        home = "/root" if user == "root" else f"/home/{user}"
        enter = ["nsenter", "--target", str(pid), "--mount", "--uts", "--ipc", "--net", "--pid"]
        enter += (["--cgroup"] if self.settings.memory_limits else []) + ["--root", "--wd"]
        enter += ["--", "env", "-i", "-C", home]
        enter += [f"PATH={PATH}", f"HOME={home}", f"USER={user}", f"LOGNAME={user}", "SHELL=/bin/bash", "LANG=C.UTF-8"]
        become = [] if user == "root" else ["setpriv", "--reuid", user, "--regid", user, "--init-groups"]
        return self._joined([*enter, *become, *argv])

    def _joined(self, argv: list[str]) -> list[str]:
        groups = self._cgroups()
        return ["sh", "-c", JOIN, "sh", " ".join(map(str, groups)), *argv] if groups else argv

    def _cgroups(self) -> list[Path]:
        if not self.settings.memory_limits:
            return []
        return [CGROUP_ROOT / controller / f"{CGROUP_PREFIX}{self.name}" for controller in CGROUP_CONTROLLERS]


def remove_cgroup(group: Path) -> bool:
    """Remove a cgroup with all below it; False while a process is left in it."""
    try:
        for below in sorted(group.rglob("*/"), reverse=True):
            below.rmdir()
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
