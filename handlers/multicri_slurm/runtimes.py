"""The words that start a container with each runtime, inside of a job. Pure.

A container sees nothing of the account's home and, unless it is an MPI job, nothing of the job's environment. Its file
system may be written to and is thrown away.

Source: apptainer exec(1), singularity exec(1), ch-run(1); what was tried stands in environment.py.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument

Kind = Literal["apptainer", "singularity", "charliecloud"]
ENV_FILE = "env"
SQUASHFS = ".squashfs"
"""How the names of such images end. A cluster that is given one has beside it what it says of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The container runtime of a cluster.

    options: the long options that ``ch-run --help`` lists, and ``squash`` if it mounts such files; for others empty.
    """

    kind: Kind
    options: frozenset[str] = frozenset()

    @property
    def takes_env0(self) -> bool:
        """Whether its file of variables parts them by NUL bytes."""
        return self.kind == "charliecloud" and "--set-env0" in self.options

    @property
    def takes_squashfs(self) -> bool:
        """With the environment that is in there, which no path on the host leads to."""
        return {"squash", "--set-env0"} <= self.options

    @property
    def carries_newlines(self) -> bool:
        return self.kind != "charliecloud" or self.takes_env0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says of itself; its environment, which runtimes know of themselves, is left out.

    has_environment: whether a Charliecloud image has a file of it.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    has_environment: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A path of the cluster that the container sees. Both are absolute and clean.

    readonly: not with Charliecloud, which has no such thing.
    """

    source: str
    destination: str
    readonly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a job.

    image: absolute path in the cluster. command, args: as in ContainerSpec. home: HOME of the pod, if it sets one.
    config: of the image; None if only its runtime knows it. binds: in the order in which they are made.
    """

    runtime: Runtime
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    working_dir: str
    home: str | None = None
    config: ImageConfig | None = None
    gpu: bool = False
    mpi: bool = False
    binds: tuple[Bind, ...] = ()


def container_words(container: Container) -> tuple[str, ...]:
    """The command line of the container, to be run in its directory in the cluster.

    Raises FailedPrecondition if the pod names no command and the image's own cannot be known.
    """
    if container.working_dir and not container.working_dir.startswith("/"):
        raise InvalidArgument(f"working_dir {container.working_dir!r}: must be an absolute path")
    if container.runtime.kind == "charliecloud":
        return tuple(_ch_run(container))
    return tuple(_apptainer(container))


def _apptainer(container: Container) -> Sequence[str]:
    command = _command(container)
    words = [container.runtime.kind, "--quiet", "exec" if command else "run"]
    if container.mpi:
        # --containall would take away PMIX_* and the shared memory that ranks talk through.
        words += ["--no-mount", "home,cwd"]
    else:
        words += ["--containall", "--cleanenv"]
    words += ["--no-eval", "--writable-tmpfs"]
    if container.home is not None:
        words += ["--no-home", "--home", container.home]
    elif container.mpi:
        words += ["--no-home"]
    if container.gpu:
        words += ["--nv"]
    for bind in container.binds:
        words += ["--mount", _mount_text(bind)]
    words += ["--pwd", working_dir_of(container), "--env-file", ENV_FILE, container.image]
    return [*words, *(command or container.args)]


def _mount_text(bind: Bind) -> str:
    """Apptainer reads ``--mount`` as one line of CSV, which carries every path."""
    line = io.StringIO()
    fields = ["type=bind", f"source={bind.source}", f"destination={bind.destination}"]
    csv.writer(line, lineterminator="").writerow([*fields, "ro"] if bind.readonly else fields)
    return line.getvalue()


def _ch_run(container: Container) -> Sequence[str]:
    config = container.config or ImageConfig()
    has = container.runtime.options
    words = ["ch-run"]
    if not container.mpi:
        words += ["--unset-env=*"]
    words += ["--env-no-expand", "--set-env=HOME=/root"]
    if config.has_environment:
        words += ["--set-env"] if "--set-env0" in has else [f"--set-env={container.image}/ch/environment"]
    words += [f"--set-env0={ENV_FILE}" if "--set-env0" in has else f"--set-env={ENV_FILE}"]
    if "--no-home" in has and "--home" not in has:  # with the latter it is the default, and the former a warning
        words += ["--no-home"]
    if "--write-fake" in has:
        words += ["--write-fake"]
    if not container.mpi:
        words += ["--private-tmp"]
    words += [f"--bind={bind.source}:{bind.destination}" for bind in container.binds]
    return [*words, f"--cd={working_dir_of(container)}", container.image, "--", *_command(container)]


def _command(container: Container) -> tuple[str, ...]:
    """By Kubernetes' rules, from the pod's words and the image's; empty if its runtime alone knows those."""
    if container.command:
        return (*container.command, *container.args)
    if container.config is None:
        return ()
    command = (*container.config.entrypoint, *(container.args or container.config.cmd))
    if not command:
        raise FailedPrecondition("the pod names no command, and the image has neither an entrypoint nor a command")
    return command


def working_dir_of(container: Container) -> str:
    """Where its command begins; absolute."""
    return container.working_dir or (container.config.working_dir if container.config else "") or "/"
