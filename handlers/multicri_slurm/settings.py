"""The ``slurm:`` section of the configuration."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from posixpath import normpath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from multicri_proxy.api.errors import InvalidArgument

_PATH = re.compile(r"[A-Za-z0-9._/@+-]+", re.ASCII)
_HOST_PATTERN = re.compile(r"[A-Za-z0-9.:*?_-]+", re.ASCII)
_OPTION = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Settings(BaseModel):
    """What an admin decides. The names in capitals are multi-cri's, kept for those who know them.

    mount_path: CRI_SLURM_MOUNT_PATH: the working directory in the cluster, relative to the account's home.
    image_remote_mount: CRI_SLURM_IMAGE_REMOTE_MOUNT: where images are built; empty for ``<mount_path>/images`` in the
        account's home; a relative path is relative to the home.
    build_in_cluster: CRI_SLURM_BUILD_IN_CLUSTER.
    known_hosts: OpenSSH's file of host keys. A host that is not in it is never connected to.
    allowed_hosts: patterns (``*.hpc.example.org``); None for every host in known_hosts.
    command_timeout_s: for one command in the cluster. build_timeout_s: for the build of one image.
    poll_interval_s: how often jobs are asked for while nothing happens; it is faster after a submit or a stop.
    job_options_allowed: sbatch options, without dashes, that pods may use beyond those that are always allowed.
    kubelet_directory: the kubelet's ``--root-dir``.
    host_paths_allowed: directories of the node of which pods may have copies in the cluster, with a read-only hostPath.
    volume_names: by a volume's name, the directory below mount_path where the cluster has mounted it, if it is another.
    volume_bytes, volume_files: how much the volumes of one container may hold.
    volume_refresh_s: how often ConfigMaps, Secrets and tokens are looked at for a new version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    mount_path: str = "multi-cri"
    image_remote_mount: str = ""
    build_in_cluster: bool = True
    known_hosts: str = "/etc/ssh/ssh_known_hosts"
    allowed_hosts: tuple[str, ...] | None = None
    connect_timeout_s: Seconds = 20.0
    command_timeout_s: Seconds = 60.0
    build_timeout_s: Seconds = 3600.0
    poll_interval_s: Seconds = 5.0
    image_builder: Literal["auto", "apptainer", "singularity", "charliecloud"] = "auto"
    job_options_allowed: tuple[str, ...] = ()
    kubelet_directory: str = "/var/lib/kubelet"
    host_paths_allowed: tuple[str, ...] = ()
    volume_names: Mapping[str, str] = {}
    volume_bytes: int = Field(default=16 * 1024 * 1024, ge=1, le=1024 * 1024 * 1024)
    volume_files: int = Field(default=2000, ge=1, le=1_000_000)
    volume_refresh_s: Seconds = 45.0

    @field_validator("mount_path")
    @classmethod
    def _relative_path(cls, value: str) -> str:
        if value.startswith("/"):
            raise ValueError("must be relative to the account's home directory")
        return _checked_path(value)

    @field_validator("image_remote_mount")
    @classmethod
    def _path_or_empty(cls, value: str) -> str:
        return _checked_path(value) if value else value

    @field_validator("known_hosts", "kubelet_directory")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/"):
            raise ValueError("must be an absolute path")
        return value.rstrip("/")

    @field_validator("host_paths_allowed")
    @classmethod
    def _directories_of_the_node(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if not path.startswith("/") or normpath(path) != path or path in {"/", "/proc", "/sys", "/dev"}:
                raise ValueError(f"{path!r} is no absolute, plain path of a directory below the root")
        return value

    @field_validator("build_in_cluster")
    @classmethod
    def _in_cluster(cls, value: bool) -> bool:
        if not value:
            raise ValueError("images are built in the cluster only, so far: must be true")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _host_patterns(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for pattern in value or ():
            if not _HOST_PATTERN.fullmatch(pattern):
                raise ValueError(f"{pattern!r} is not a host name or a pattern with * and ?")
        return value

    @field_validator("job_options_allowed")
    @classmethod
    def _option_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for option in value:
            if not _OPTION.fullmatch(option):
                raise ValueError(f"{option!r} is not an sbatch option's long name without dashes")
        return value

    def allows_host(self, host: str) -> bool:
        if self.allowed_hosts is None:
            return True
        return any(fnmatchcase(host.lower(), pattern.lower()) for pattern in self.allowed_hosts)


def read_settings(section: Mapping[str, object]) -> Settings:
    """Raises InvalidArgument naming each setting that is wrong and why."""
    try:
        return Settings.model_validate(dict(section))
    except ValidationError as error:
        reasons = [f"slurm.{'.'.join(map(str, e['loc']))}: {_plain(e['msg'])}" for e in error.errors()]
        raise InvalidArgument("; ".join(reasons)) from error


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


def _checked_path(value: str) -> str:
    if not _PATH.fullmatch(value):
        raise ValueError("must consist of A-Z a-z 0-9 . _ / @ + -")
    parts = [part for part in value.split("/") if part]
    if not parts or any(part in {".", ".."} or part.startswith("-") for part in parts):
        raise ValueError("must have no part that is empty, . or .., or begins with -")
    return ("/" if value.startswith("/") else "") + "/".join(parts)
