"""The process that keeps one container: it outlives the proxy, and what it knows is in files.

It runs alone, without the project's other packages. In the container's directory it finds ``job.json`` and leaves

    lock      locked as long as it lives: who it is cannot be mistaken
    claim     made before the container is: there is never a second one
    started   pids and times, once there is a process; written before that process runs anything
    exit      code and times, once it has ended, and how many of its processes were killed for want of memory
    stdout, stderr

The container's first process is the first one of a PID namespace: when it ends, the kernel ends all others. SIGWINCH
has its terminal take the size that the file ``size`` has.
"""

import fcntl
import json
import os
import signal
import struct
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from multicri_charliecloud import kernel
from multicri_charliecloud.cgroup_member import join, oom_kills, remove
from multicri_charliecloud.owners import user_namespace
from multicri_charliecloud.relay import Relay

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
UNPRIVILEGED = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
"""So that a container that is nobody on the node has port 53 of its own network, and ping."""

LONGEST_MESSAGE_BYTES = 4096
CANNOT_RUN_EXIT_CODE = 127


def main() -> None:
    """Start the container of the directory in argv, unless somebody has; return once it runs."""
    close_others()
    os.umask(0o077)
    os.chdir(sys.argv[1])
    with Path("starting").open("a") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if Path("claim").exists():
            return
        said, say = os.pipe()
        if os.fork() == 0:
            starting.close()
            os.close(said)
            _keep(say)
        os.close(say)
        with os.fdopen(said, "rb") as reader:
            answer = reader.read(LONGEST_MESSAGE_BYTES)
    if answer != b"ok":
        sys.exit(answer.decode(errors="replace") or "the supervisor ended before it had started the container")


def close_others() -> None:
    """Files that whoever started us has left open: their other ends wait for us to end."""
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if number > 2:
            with suppress(OSError):
                os.close(number)


def _keep(say: int) -> None:
    """Never returns."""
    try:
        os.setsid()
        log = os.open("supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for number, file in enumerate((null, log, log)):
            os.dup2(file, number)
        with Path("lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _claim("claim")
            Container(json.loads(Path("job.json").read_text())).run(say)
    except BaseException as error:
        with suppress(OSError):
            os.write(say, f"{error}"[:LONGEST_MESSAGE_BYTES].encode())
        os._exit(1)
    os._exit(0)


class Container:
    """job: ``words`` of ch-run; ``identity``: user and group id to become, or null; ``binds``: source, target,
    readonly of each mount to be made in the namespace of this process, and whether it is a volume, whose ``owners``
    are to be swapped: pairs of user and of group ids, or null; ``devices``: directory that gets a /dev of its own;
    ``device_binds``: the same as binds, with targets below that; ``stdin``, ``stdin_once``, ``tty``;
    ``groups``: further ones of the node; ``network``: path of a namespace to enter, or nothing; ``hostname``,
    ``sysctls``, ``node_ipc``; ``masked``, ``protected``: paths not to be seen, and not to be changed;
    ``oom_score_adj``, or nearly that where only root may have it; ``environment`` of ch-run itself.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._group: dict[str, str] = json.loads(Path("cgroup").read_text())

    def run(self, say: int) -> None:
        relay = Relay(
            stdin=self._job["stdin"],
            stdin_once=self._job["stdin_once"],
            tty=self._job["tty"],
            owner=self._job["identity"],
        )
        self._enter_namespaces()
        wait, release = os.pipe()
        failing, failed = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(release)
            os.close(failing)
            self._become_container(wait, failed, relay.files)
        os.close(wait)
        os.close(failed)
        born = start_time(pid)
        join(self._group, pid)
        if (terminal := relay.terminal) is not None:
            signal.signal(signal.SIGWINCH, lambda *_: resize(terminal))
        started_at_ns = time.time_ns()
        me = os.getpid()
        _publish(
            "started",
            {
                "pid": pid,
                "start_time": born,
                "supervisor_pid": me,
                "supervisor_start_time": start_time(me),
                "started_at_ns": started_at_ns,
            },
        )
        os.write(release, b"!")
        with os.fdopen(failing, "rb") as reader:
            message = reader.read(LONGEST_MESSAGE_BYTES)
        os.write(say, message or b"ok")
        os.close(say)
        code = os.waitstatus_to_exitcode(relay.run(pid))
        _publish(
            "exit",
            {
                "code": code if code >= 0 else 128 - code,
                "started_at_ns": started_at_ns,
                "finished_at_ns": time.time_ns(),
                "message": message.decode(errors="replace"),
                "oom_kills": oom_kills(self._group),
            },
        )
        remove(self._group.values())

    def _enter_namespaces(self) -> None:
        user, group = os.geteuid(), os.getegid()
        owners = user_namespace(*self._job["owners"]) if self._job["owners"] else None
        if self._job["network"]:
            with Path(self._job["network"]).open() as network:
                kernel.setns(network.fileno(), kernel.CLONE_NEWNET)
        kinds = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID
        kinds |= 0 if self._job["node_ipc"] else kernel.CLONE_NEWIPC
        kinds |= kernel.CLONE_NEWUTS if self._job["hostname"] else 0
        if user == 0:
            kernel.unshare(kinds)
        else:
            kernel.unshare(kinds | kernel.CLONE_NEWUSER)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        if self._job["hostname"]:
            kernel.sethostname(self._job["hostname"])
        if self._job["network"]:
            for name, value in UNPRIVILEGED.items():
                with suppress(OSError):
                    set_sysctl(name, value)
        for name, value in self._job["sysctls"].items():
            set_sysctl(name, value)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_SLAVE)
        make_devices(self._job["devices"])
        for source, target, readonly, is_volume in (*self._job["binds"], *self._job["device_binds"]):
            make_mount_point(target, directory=Path(source).is_dir())
            if owners is not None and is_volume:
                try:
                    kernel.bind_mapped(source, target, owners, readonly=readonly)
                except OSError as error:  # a file system that cannot: what others may do is all that is left
                    sys.stderr.write(f"owners are as on the node: {error}\n")
                else:
                    continue
            kernel.bind(source, target, readonly=readonly)
        if owners is not None:
            os.close(owners)

    def _become_container(self, wait: int, failed: int, streams: tuple[int, int, int]) -> None:
        """In the child. Never returns."""
        try:
            if os.read(wait, 1) != b"!":
                os._exit(1)  # who would have kept it is gone
            with suppress(OSError):  # where the node's /proc is partly covered, an ordinary user must keep it
                kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
            cover(self._job["masked"], self._job["protected"])
            os.setsid()
            with suppress(OSError):  # the daemon's own may be that of a process never to be killed
                Path("/proc/self/oom_score_adj").write_text(str(self._job["oom_score_adj"]))
            for number, file in enumerate(streams):
                os.dup2(file, number)
            if self._job["tty"]:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if (identity := self._job["identity"]) is not None:
                user, group = identity
                os.setgroups(self._job["groups"])
                os.setresgid(group, group, group)
                os.setresuid(user, user, user)
            os.umask(0o022)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            kernel.die_with_parent(signal.SIGKILL)
            words = self._job["words"]
            os.execve(words[0], words, self._job["environment"])  # noqa: S606
        except BaseException as error:
            os.write(failed, str(error).encode()[:LONGEST_MESSAGE_BYTES])
        os._exit(CANNOT_RUN_EXIT_CODE)


def set_sysctl(name: str, value: str) -> None:
    """Of the namespaces that we are in. Raises OSError naming it."""
    try:
        Path("/proc/sys", name if "/" in name else name.replace(".", "/")).write_text(value)
    except OSError as error:
        raise OSError(error.errno, f"sysctl {name}: {error.strerror}") from error


def cover(masked: list[str], protected: list[str]) -> None:
    """What of the kernel's files a container is not to see, and what it is not to change, as far as they are there."""
    for path in protected:
        if os.path.exists(path):  # noqa: PTH110  (one that is no text is none)
            kernel.bind(path, path, readonly=True)
    for path in masked:
        if Path(path).is_dir():
            kernel.mount("tmpfs", path, "tmpfs", kernel.MS_RDONLY, "size=0")
        elif os.path.exists(path):  # noqa: PTH110
            kernel.bind("/dev/null", path)


def resize(terminal: int) -> None:
    """The size is in a file: rows and columns."""
    with suppress(OSError, ValueError):
        rows, columns = (int(word) for word in Path("size").read_text().split())
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def make_devices(root: str) -> None:
    """A /dev with what every program expects, and none of the node's disks."""
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID, "mode=755,size=1m")
    for name in DEVICES:
        target = f"{root}/{name}"
        make_mount_point(target, directory=False)
        kernel.bind(f"/dev/{name}", target)
    for name, kind, options in (
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"),
        ("shm", "tmpfs", "mode=1777"),
    ):
        make_mount_point(f"{root}/{name}", directory=True)
        kernel.mount(kind, f"{root}/{name}", kind, kernel.MS_NOSUID | kernel.MS_NOEXEC, options)
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd"} | {
        name: f"/proc/self/fd/{number}" for number, name in enumerate(("stdin", "stdout", "stderr"))
    }
    for name, where in links.items():
        Path(root, name).symlink_to(where)


def make_mount_point(path: str, *, directory: bool) -> None:
    if directory:
        Path(path).mkdir(parents=True, exist_ok=True)
    elif not os.path.lexists(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o644))


def start_time(pid: int) -> int:
    """In clock ticks since boot: with the pid, a process's name for good. Source: proc(5), /proc/pid/stat."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])


def _claim(name: str) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    _sync_directory()


def _publish(name: str, facts: dict[str, Any]) -> None:
    partial = Path(f"{name}.partial")
    with partial.open("w") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(name)
    _sync_directory()


def _sync_directory() -> None:
    directory = os.open(".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
