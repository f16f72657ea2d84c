"""What is where on the node, and what a container's supervisor has written there.

images/ID                  belongs to whom containers run as
containers/ID/             only to be entered by others
  job.json, env            what to run; env is ch-run's to read
  cgroup                   paths of its control groups, as `cgroup_member` has them; written before these are made
  root/image               the container's own copy of its image
  dev, mounts/N            what is mounted for it, in its supervisor's mount namespace only
  claim, started, exit, …  see supervisor.py
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multicri_charliecloud.settings import Identity
from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.ids import ContainerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """As the supervisor has written it. Times of processes are clock ticks since boot."""

    pid: int
    start_time: int
    supervisor_pid: int
    supervisor_start_time: int
    started_at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    code: int
    started_at_ns: int
    finished_at_ns: int
    message: str
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class ContainerDirectory:
    """Everything here is on the disk: not for the event loop."""

    path: Path

    @property
    def root(self) -> Path:
        return self.path / "root"

    @property
    def image(self) -> Path:
        return self.root / "image"

    @property
    def env_file(self) -> Path:
        return self.path / "env"

    @property
    def devices(self) -> Path:
        return self.path / "dev"

    @property
    def stdin(self) -> Path:
        return self.path / "stdin"

    @property
    def size(self) -> Path:
        return self.path / "size"

    def output(self, stream: OutputStream) -> Path:
        return self.path / stream.value

    def mount(self, number: int) -> Path:
        return self.path / "mounts" / str(number)

    def make(self, identity: Identity | None) -> None:
        """Anew: what a creation that never ended has left there is known to be nobody's."""
        _make(self.path, 0o711 if identity else 0o700)
        _make(self.path / "mounts", 0o711 if identity else 0o700)
        _make(self.devices, 0o711 if identity else 0o700)
        _make(self.root, 0o700)
        if identity:
            os.chown(self.root, identity.user_id, identity.group_id)

    def write_job(self, job: Mapping[str, Any], env: bytes, identity: Identity | None) -> None:
        """job: for the supervisor. env: for ch-run. The exec helper takes it from the job."""
        _write(self.env_file, env)
        if identity:
            os.chown(self.env_file, identity.user_id, identity.group_id)
        if job["stdin"]:
            os.mkfifo(self.stdin, 0o600)
        _write(self.path / "job.json", json.dumps(job).encode())

    def write_group(self, group: Mapping[str, str]) -> None:
        _write(self.path / "cgroup", json.dumps(group).encode())

    def group(self) -> dict[str, str]:
        """Empty if it has none."""
        return self._facts("cgroup") or {}

    def write(self, name: str, text: str) -> Path:
        """A file that the container sees."""
        path = self.path / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def job(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "job.json").read_text())
        return found

    def claim(self) -> bool:
        """Take away the right to start it. Whether nobody had it before."""
        try:
            os.close(os.open(self.path / "claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True

    def is_claimed(self) -> bool:
        return (self.path / "claim").exists()

    def started(self) -> Started | None:
        found = self._facts("started")
        return Started(**found) if found else None

    def exit(self) -> Exit | None:
        found = self._facts("exit")
        return Exit(**found) if found else None

    def remove_files(self) -> None:
        """After the copy of the image, which may belong to somebody else."""
        shutil.rmtree(self.path, ignore_errors=False)

    def _facts(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        return found


@dataclass(frozen=True, slots=True)
class Directories:
    """path: of all."""

    path: Path

    @property
    def images(self) -> Path:
        return self.path / "images"

    def make(self, identity: Identity | None) -> None:
        for directory in (self.path, self.path / "containers"):
            _make(directory, 0o711 if identity else 0o700)
        _make(self.images, 0o700)
        if identity:
            os.chown(self.images, identity.user_id, identity.group_id)

    def of(self, container_id: ContainerId) -> ContainerDirectory:
        return ContainerDirectory(self.path / "containers" / container_id)


def _make(path: Path, mode: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
