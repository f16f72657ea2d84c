"""Builds one image on the node: a program of its own, at low priority, which takes as long as it takes.

    <directory>/<digits>.sif, .squashfs   an image, complete: it comes by rename, and is root's
    <directory>/<digits>.sif.json         what is known of it; without this it is not there
    <directory>/<digits>.lock             locked while it is built
    <directory>/builds/<digits>/          a build, or what a build left that was killed: the next one removes it

Builders unpack what a registry sends, so they run as somebody who may write nowhere but in the work directory. They
keep the lock open: it is free once all of them have ended, however that came about.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from multicri_images.packing import LARGEST_CONFIG_BYTES
from multicri_proxy.api.children import end_with_who_asks
from multicri_proxy.api.places import STATE_DIRECTORY

DEFAULT_DIRECTORY = str(STATE_DIRECTORY / "images")
LOG_BYTES = 6000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
NICENESS = 19
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Job:
    """directory: of images. name: the digits of the image's id. suffix: of its file.

    commands, environment, files: of the builder's recipe, whose target is `target`.
    packed: whether the builder makes a directory, of which a file is still to be made.
    user: name, uid and gid of whom builders run as; None for our own. facts: to be kept with the image.
    """

    directory: str
    name: str
    suffix: str
    commands: list[list[str]]
    environment: dict[str, str]
    files: dict[str, str]
    packed: bool
    user: tuple[str, int, int] | None
    timeout_s: float
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return work_directory(self.directory, self.name)

    @property
    def target(self) -> Path:
        return target_of(self.directory, self.name, "" if self.packed else self.suffix)


def work_directory(directory: str, name: str) -> Path:
    return Path(directory) / "builds" / name


def target_of(directory: str, name: str, suffix: str) -> Path:
    """What a builder is to make."""
    return work_directory(directory, name) / f"image{suffix}"


class BuildError(Exception):
    """log: the end of what the builder wrote, or our own words."""

    def __init__(self, log: str) -> None:
        super().__init__(log)
        self.log = log


def build(job: Job) -> dict[str, Any]:
    """What is known of the image. Raises BuildError; OSError if a disk is full, say."""
    until = time.monotonic() + job.timeout_s
    directory = Path(job.directory)
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    (directory / "builds").mkdir(mode=0o711, exist_ok=True)
    if job.user is not None:
        for way in (directory.resolve(), *directory.resolve().parents):
            if not way.stat().st_mode & 0o001:
                raise BuildError(f"multicri: {job.user[0]} may not enter {way}: chmod o+x, or set images.directory")
    lock = os.open(directory / f"{job.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while not _locked(lock):
        if time.monotonic() > until:
            raise BuildError("multicri: the time for the build is over: another build of the image does not end")
        time.sleep(0.1)
    if (known := known_image(job.directory, job.name, job.suffix)) is not None:
        return known
    _remove_leftovers(directory / "builds", job.name)
    try:
        _prepare(job)
        for command in job.commands:
            _run(command, job, lock, until)
        made = job.target
        if job.packed:
            made = target_of(job.directory, job.name, job.suffix)
            _run([sys.executable, "-P", "-m", "multicri_images.packing", str(job.target), str(made)], job, lock, until)
        return _publish(job, made)
    finally:
        _wipe(job.work)


def known_image(directory: str, name: str, suffix: str) -> dict[str, Any] | None:
    """What is known of an image that is there."""
    file = Path(directory) / f"{name}{suffix}"
    try:
        known: dict[str, Any] = json.loads(file.with_name(f"{file.name}.json").read_bytes())
        return known if file.stat().st_size == known["size_bytes"] else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_leftovers(work: Path, name: str) -> None:
    """What builds left that were killed: of this image, whose lock is held, and of others that nobody builds."""
    for left in work.iterdir():
        if left.name == name:
            _wipe(left)
            continue
        lock = os.open(work.parent / f"{left.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _locked(lock):
                _wipe(left)
        finally:
            os.close(lock)


def _prepare(job: Job) -> None:
    job.work.mkdir(mode=0o700)
    for path, text in job.files.items():
        with open(path, "xb", opener=_private) as file:
            file.write(text.encode())
    if job.user is not None:
        for made in (job.work, *map(Path, job.files)):
            os.chown(made, job.user[1], job.user[2])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _run(command: list[str], job: Job, lock: int, until: float) -> None:
    name, user_id, group_id = job.user or (str(os.geteuid()), None, None)
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    home = {"HOME": str(job.work), "TMPDIR": str(job.work), "USER": name, "PATH": PATH, "LANG": "C.UTF-8"}
    with TemporaryFile(dir=job.directory) as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=job.work,
            env=kept | home | job.environment,
            user=user_id,
            group=group_id,
            extra_groups=[] if job.user else None,
            umask=0o022,
            pass_fds=(lock,),
        )
        try:
            code = process.wait(max(1.0, until - time.monotonic()))
            words = f"multicri: killed by signal {-code}\n" if code < 0 else ""
        except subprocess.TimeoutExpired:
            process.kill()  # what it has begun goes with our group, at the end
            code, words = -1, "multicri: the time for the build is over\n"
        if code != 0:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            raise BuildError(log.read(LOG_BYTES).decode("utf-8", "replace") + words)


def _publish(job: Job, made: Path) -> dict[str, Any]:
    """Take from the builders what they made: nobody else can write to it from here on."""
    os.chown(job.work, os.geteuid(), os.getegid())
    final = Path(job.directory) / f"{job.name}{job.suffix}"
    descriptor = os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.fstat(descriptor).st_nlink != 1:
            raise BuildError("multicri: what the builder made is no file")
        os.fchmod(descriptor, 0o600)
        os.fchown(descriptor, os.geteuid(), os.getegid())
        digest, size = hashlib.sha256(), 0
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
        os.fsync(descriptor)
    known = {
        "size_bytes": size,
        "sha256": digest.hexdigest(),
        "config": _config(job.work) if job.packed else "",
        **job.facts,
    }
    facts = final.with_name(f"{final.name}.json.new")
    with open(facts, "wb", opener=_private) as file:
        file.write(json.dumps(known).encode())
        os.fsync(file.fileno())
    made.rename(final)
    facts.rename(facts.with_suffix(""))
    parent = os.open(job.directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(parent)
    os.close(parent)
    return known


def _config(work: Path) -> str:
    with open(work / "config.json", "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW)) as file:
        return file.read(LARGEST_CONFIG_BYTES).decode()


def _wipe(path: Path) -> None:
    """Also what a builder has forbidden itself to write, for which root needs no permission."""

    def again(function: Any, name: str, error: Any) -> None:
        if os.geteuid() == 0:
            raise error[1]
        for one in (Path(name).parent, Path(name)):
            one.chmod(0o700)
        function(name)

    if path.exists():
        shutil.rmtree(path, onerror=again)


def main(question: IO[bytes], answer: IO[str]) -> None:
    """The program."""
    words: Mapping[str, Any] = json.loads(question.readline())
    threading.Thread(target=end_with_who_asks, args=(question,), daemon=True).start()
    os.nice(NICENESS)
    try:
        line = build(Job(**{**words, "user": tuple(words["user"]) if words["user"] else None}))
    except BuildError as error:
        line = {"error": error.log}
    except OSError as error:
        line = {"error": f"multicri: {error.strerror or error}: {error.filename or words['directory']}"}
    answer.write(json.dumps(line) + "\n")
    answer.flush()
    os.killpg(0, signal.SIGKILL)  # what a builder has begun and not ended


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout)
