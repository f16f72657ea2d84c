"""Ways to break the cluster. Each is whole again when its block is left, also if the test has failed."""

import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from testbed import Testbed
from testbed.cluster import DaemonName
from testbed.host import HostName


@contextmanager
def without(bed: Testbed, daemon: DaemonName, host: HostName = "login") -> Iterator[None]:
    """A daemon that is away. sshd was killed; a slurmctld that is killed forgets what it has not saved yet."""
    how = signal.SIGKILL if daemon == "sshd" else signal.SIGTERM
    bed.cluster.stop_daemon(daemon, host, signal_number=how)
    try:
        yield
    finally:
        bed.cluster.start_daemon(daemon, host)


def kill_sessions(bed: Testbed, user: str) -> None:
    """Cut all SSH connections of a user, as a login host does that runs out of memory."""
    bed.cluster.run("login", ["pkill", "-KILL", "-u", user, "sshd"])


@contextmanager
def still(bed: Testbed, user: str) -> Iterator[None]:
    """The user's SSH sessions, SFTP among them, live and do nothing: their home hangs."""
    found = bed.cluster.run("login", ["pgrep", "-u", user, "sshd"], check=True).stdout.split()
    bed.cluster.run("login", ["kill", "-STOP", *found], check=True)
    try:
        yield
    finally:
        bed.cluster.run("login", ["kill", "-CONT", *found])


@contextmanager
def slow(bed: Testbed, user: str) -> Iterator[None]:
    """The user's SSH sessions, SFTP among them, stand still most of the time, as one does that waits for its home."""
    on_off = """
        trap 'kill -CONT $(pgrep -u "$1" sshd); exit' TERM
        while :; do
          kill -STOP $(pgrep -u "$1" sshd); sleep 1.2 & wait $!
          kill -CONT $(pgrep -u "$1" sshd); sleep 0.2 & wait $!
        done 2> /dev/null
    """
    argv = bed.cluster.argv_inside("login", ["bash", "-c", f"echo $$; {on_off}", "slow", user])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().strip()
        try:
            yield
        finally:
            bed.cluster.run("login", ["kill", pid], check=True)


@contextmanager
def sshd_with(bed: Testbed, **options: str | int) -> Iterator[None]:
    """An sshd with other options. Sessions that are open go on with the old ones."""
    path = "/etc/ssh/sshd_config"
    before = bed.cluster.run("login", ["cat", path], check=True).stdout
    first = "".join(f"{name} {value}\n" for name, value in options.items())  # the first of a name counts
    try:
        _restart_sshd(bed, path, first + before)
        yield
    finally:
        _restart_sshd(bed, path, before)


def _restart_sshd(bed: Testbed, path: str, config: str) -> None:
    bed.cluster.stop_daemon("sshd")
    bed.cluster.run("login", ["tee", path], stdin=config, check=True)
    bed.cluster.start_daemon("sshd")


@contextmanager
def another_password(bed: Testbed, user: str) -> Iterator[None]:
    """An account whose password is not the pod's any more; its open connections are cut."""
    _set_password(bed, user, "another")
    try:
        yield
    finally:
        _set_password(bed, user, bed.cluster.user(user).password)


def _set_password(bed: Testbed, user: str, password: str) -> None:
    bed.cluster.run("login", ["chpasswd"], stdin=f"{user}:{password}\n", check=True)
    kill_sessions(bed, user)


@contextmanager
def locked(bed: Testbed, user: str) -> Iterator[None]:
    """An account that an admin has locked; its open connections are cut."""
    bed.cluster.run("login", ["usermod", "--lock", "--expiredate", "1", user], check=True)
    kill_sessions(bed, user)
    try:
        yield
    finally:
        bed.cluster.run("login", ["usermod", "--unlock", "--expiredate", "", user], check=True)


@contextmanager
def another_host_key(bed: Testbed) -> Iterator[None]:
    """A login host that is not who it was; its open connections are cut."""
    key = "/etc/ssh/ssh_host_ed25519_key"
    bed.cluster.stop_daemon("sshd")
    make = f"cp -p {key} {key}.kept && rm {key} && ssh-keygen -q -t ed25519 -N '' -f {key}"
    bed.cluster.run("login", ["sh", "-c", make], check=True)
    bed.cluster.start_daemon("sshd")
    kill_sessions(bed, "alice")
    try:
        yield
    finally:
        bed.cluster.stop_daemon("sshd")
        bed.cluster.run("login", ["mv", f"{key}.kept", key], check=True)
        bed.cluster.start_daemon("sshd")


@contextmanager
def small_home(bed: Testbed, directory: str, size_bytes: int) -> Iterator[None]:
    """A directory of alice's home as a file system of its own, of this size, seen by the login host alone."""
    options = f"size={size_bytes},uid={bed.cluster.user('alice').uid},mode=700"
    bed.cluster.run("login", ["mkdir", "-p", directory], user="alice", check=True)
    bed.cluster.run("login", ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    try:
        yield
    finally:
        bed.cluster.run("login", ["umount", "--lazy", directory], check=True)
        bed.cluster.run("login", ["rmdir", directory], check=True)


@contextmanager
def lost_node(bed: Testbed, host: HostName) -> Iterator[None]:
    """A compute node that does not answer any more, and that Slurm has given up."""
    bed.cluster.cut_link(host)
    try:
        bed.cluster.run("login", ["scontrol", "update", f"nodename={host}", "state=down", "reason=lost"], check=True)
        yield
    finally:
        bed.cluster.mend_link(host)
        bed.cluster.stop_daemon("slurmd", host)
        bed.cluster.run(host, ["pkill", "-KILL", "slurmstepd"])
        bed.cluster.run(host, ["pkill", "-KILL", "-u", "alice"])
        bed.cluster.run("login", ["scontrol", "update", f"nodename={host}", "state=resume"], check=True)
        bed.cluster.start_daemon("slurmd", host)


def forget_all_jobs(bed: Testbed) -> None:
    """What MinJobAge does in a minute: slurmctld knows no job any more. Only for jobs that have ended."""
    bed.cluster.stop_daemon("slurmctld")
    clean = "slurmctld -c; until scontrol ping | grep -q 'is UP'; do sleep 0.1; done"
    bed.cluster.run("login", ["sh", "-c", clean], check=True)
    bed.cluster.wait_ready()


GATED = """\
#!/bin/sh
# Stands before a program in PATH: tells that it was called for a pod, and waits until it may go on.
gate={gate}
held() {{ # before or after, what is known of the call
  for point in "$gate"/{program}-"$1"-*; do
    [ -e "$point" ] || continue
    case "$2" in *"$(cat "$point")"*) ;; *) continue ;; esac
    : > "$gate/reached-${{point##*/}}"
    while [ -e "$point" ]; do sleep 0.05; done
  done
}}
held before "$PWD $*"
{path} "$@"; code=$?
held after "$PWD $*"
exit $code
"""


class Gate:
    """Holds up programs of alice on the login host, before or after they have run."""

    def __init__(self, bed: Testbed) -> None:
        self._bed = bed
        self._directory = bed.cluster.user("alice").home / "gate"
        self._programs: list[str] = []
        self._points: list[str] = []

    @contextmanager
    def of(self, *programs: str) -> Iterator["Gate"]:
        self._directory.mkdir(exist_ok=True)
        self._directory.chmod(0o777)
        try:
            for program in programs:
                self._install(program)
            yield self
        finally:
            self.open()
            wrappers = " ".join(f"/usr/local/bin/{shlex.quote(program)}" for program in self._programs)
            self._bed.cluster.run("login", ["sh", "-c", f"rm -rf {wrappers} /home/alice/gate"], check=True)

    def _install(self, program: str) -> None:
        script = GATED.format(gate="/home/alice/gate", program=program, path=f"/usr/bin/{program}")
        install = 'umask 022; cat > "/tmp/$1" && chmod 755 "/tmp/$1" && /usr/bin/mv "/tmp/$1" /usr/local/bin/'
        self._bed.cluster.run("login", ["sh", "-c", install, "sh", program], stdin=script, check=True)
        self._programs.append(program)

    def close(self, program: str, when: str, about: str) -> None:
        """when: ``before`` or ``after`` it has run. about: what its working directory or arguments hold."""
        point = f"{program}-{when}-{about}"
        (self._directory / point).write_text(about)
        self._points.append(point)

    def reached(self) -> bool:
        """Is every point that was closed held up?"""
        return all((self._directory / f"reached-{point}").exists() for point in self._points)

    def waiting_for(self) -> str:
        return f"not held up: {[p for p in self._points if not (self._directory / f'reached-{p}').exists()]}"

    def open(self) -> None:
        for point in self._points:
            (self._directory / point).unlink(missing_ok=True)
        self._points.clear()
