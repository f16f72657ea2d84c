"""What an admin decides about a cluster: the ``slurm:`` section of the configuration, and each of its ``clusters:``."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from posixpath import normpath
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from multicri_proxy.api.errors import InvalidArgument
from multicri_slurm.custom_config import custom_options
from multicri_slurm.destinations import Destination
from multicri_slurm.fields import Host, Port, UserName, matching
from multicri_slurm.prerun import LONGEST_PRERUN

_PATH = re.compile(r"[A-Za-z0-9._/@+-]+", re.ASCII)
_HOST_PATTERN = re.compile(r"[A-Za-z0-9.:*?_-]+", re.ASCII)
_OPTION = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_JUMP = re.compile(r"(?:(?P<user>[^@]+)@)?(?P<host>\[[^]]+\]|[^:]+)(?::(?P<port>[0-9]+))?", re.ASCII)
_REST_URL = re.compile(
    r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?|unix:/[A-Za-z0-9._/@+-]+", re.ASCII
)
LOOPBACK = ("localhost", "127.0.0.1", "::1")

PodModel = Literal["job-per-container", "allocation-per-pod"]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
ProofFile = Annotated[
    str, matching(r"(/[^\0\n]*|[A-Za-z0-9][A-Za-z0-9_.-]*)?", "an absolute path, or the name of a systemd credential")
]
Id = Annotated[int, Field(ge=1, le=2**32 - 2)]
Namespace = Annotated[str, matching(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "a namespace")]


def _rest_url(value: str) -> str:
    if not _REST_URL.fullmatch(value):
        raise ValueError("must be https://host[:port], http://host[:port] or unix:/path, and nothing behind it")
    try:
        urlsplit(value).port  # noqa: B018  # it is checked when it is asked for
    except ValueError as error:
        raise ValueError(f"has no port that there is: {error}") from error
    return value


class Person(BaseModel):
    """An account's user, and the files that prove it: a private key without a passphrase, a password, or a token.

    uid, gid: the user's numbers in the cluster, where there is a token: files in the shared directory are theirs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    user: UserName | None = None
    key_file: ProofFile = ""
    certificate_file: ProofFile = ""
    password_file: ProofFile = ""
    token_file: ProofFile = ""
    uid: Id | None = None
    gid: Id | None = None

    @model_validator(mode="after")
    def _proved(self) -> Self:
        if self.key_file and self.password_file:
            raise ValueError("key_file: must not be set together with password_file")
        if self.certificate_file and not self.key_file:
            raise ValueError("certificate_file: goes with a key_file, which must be set too")
        if self.token_file and (self.key_file or self.password_file):
            raise ValueError("token_file: must not be set together with key_file or password_file")
        if bool(self.user) != bool(self.key_file or self.password_file or self.token_file):
            raise ValueError("user: must be set together with key_file or password_file, or token_file for REST")
        if bool(self.token_file) != (self.uid is not None and self.gid is not None):
            raise ValueError("token_file: must be set together with uid and gid, the user's numbers in the cluster")
        return self


class User(Person):
    """Whom the pods of a namespace are in the cluster."""

    user: UserName


class Jump(Person):
    """A host on the way. Without a user of its own, it is given the account's name and credentials."""

    host: Host
    port: Port = 22


def _jump(value: object) -> object:
    """``[user@]host[:port]`` as what it stands for; anything else as it is."""
    if not isinstance(value, str):
        return value
    match = _JUMP.fullmatch(value)
    if match is None or match["user"]:
        raise ValueError("must be host[:port], or a mapping with host, port, user and key_file")
    return {"host": match["host"].strip("[]"), **({"port": match["port"]} if match["port"] else {})}


def _host_key(value: str) -> str:
    words = value.split()
    if not re.fullmatch(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+=*", " ".join(words[:2]), re.ASCII) or "\n" in value.strip():
        raise ValueError("must be a line as in a .pub file: ssh-ed25519 AAAA...")
    return " ".join(words[:2])


class Settings(Person):
    """One profile. The names in capitals are multi-cri's, kept for those who know them.

    host, port: where to log in; a pod may say so itself if they are not set, or with pod_credentials.
    rest_url: of slurmrestd, for a cluster that is not logged in to. rest_ca_file: of who signed its certificate, if the
        system does not know. rest_unencrypted: whether http may be spoken with another host.
    shared_directory: on the node, with {user} for the account's name; what a login's home is otherwise.
        shared_directory_in_cluster: the same directory there, if it has another path.
    user: whom pods are there, if they bring no credentials. users: the same by namespace, and only for those.
    handlers: RuntimeClass handlers whose pods get this profile.
    pod_credentials: whether a pod may bring its own CLUSTER_*.
    pod_prerun: whether a pod that runs under an account of these settings may bring CLUSTER_CONFIG, which is text that
        runs there outside of any container. One that brings its own credentials always may.
    mount_path: CRI_SLURM_MOUNT_PATH: the working directory in the cluster, relative to the account's home.
    image_remote_mount: CRI_SLURM_IMAGE_REMOTE_MOUNT: where images are built; empty for ``<mount_path>/images`` in the
        account's home; a relative path is relative to the home.
    build_in_cluster: CRI_SLURM_BUILD_IN_CLUSTER: whether images are built there, or on the node, and then sent.
        build_in: whether those that are built there are on the login host or by a job.
    builds_at_once: how many images are built at a time, for all accounts. image_checksum: whether an image that is a
        file is read whole before each use, and built again if it has changed.
    image_directory_bytes: how much the images of one account may have before those not used for longest are removed;
    image_directory_count: how many there may be; 0 is no limit.
    known_hosts: OpenSSH's file of host keys. A host that is not in it is never connected to.
    host_key: the host's key itself, instead of a line in known_hosts.
    host_key_policy: ``tofu`` takes the key that a host shows at first, and keeps it in learnt_hosts.
    proxy_jump: hosts on the way, the first one first.
    allowed_hosts: patterns (``*.hpc.example.org``) for pods' own CLUSTER_HOST; None for every host in known_hosts.
    prerun: shell text that is sourced before images are built and before each container.
    command_timeout_s: for one command in the cluster. build_timeout_s: for the build of one image.
    exec_by: how commands get into a job: by ``srun --overlap``, or by the login host's own ssh to the job's node.
    exec_agents: how many containers of one account may have an agent at a time, by which commands are run in them
        without a step for each; it stays while commands come. 0: none has.
    way_back: where in the node's network a job may be connected to, if its pod asks for that.
    poll_interval_s: how often jobs are asked for while nothing happens; it is faster after a submit or a stop.
    max_jobs: how many containers of this node may be created and not yet ended at a time.
    job_options_allowed: sbatch options, without dashes, that pods may use beyond those that are always allowed.
    job_options_default: sbatch options of every job, as in JOB_CUSTOM_CONFIG; a pod's own are preferred to them.
    job_shell: whether command and args are a line for a shell where a pod does not say JOB_SHELL, as with multi-cri.
    mpi: how the ranks of MPI jobs are started, if the pod says so neither
        itself nor with MPI_FLAGS: a type of ``srun --mpi=list``, or mpirun.
    pod_model: whether each container of a pod is a job, or the pod one allocation and its containers steps in it.
    allocation_idle_s: after how long without any container an allocation ends by itself: its node may be gone.
    kubelet_directory: the kubelet's ``--root-dir``.
    host_paths_allowed: directories of the node of which pods may have copies in the cluster, with a read-only hostPath.
    volume_names: by a volume's name, the directory below mount_path where the cluster has mounted it, if it is another.
    volume_bytes, volume_files: how much the volumes of one container may hold.
    volume_refresh_s: how often ConfigMaps, Secrets and tokens are looked at for a new version.
    """

    host: Host | None = None
    port: Port = 22
    rest_url: Annotated[str, AfterValidator(_rest_url)] | None = None
    rest_ca_file: str = ""
    rest_unencrypted: bool = False
    shared_directory: str = ""
    shared_directory_in_cluster: str = ""
    users: Mapping[Namespace, User] = {}
    handlers: tuple[str, ...] = ()
    pod_credentials: Literal["allow", "forbid"] = "allow"
    pod_prerun: bool = False
    mount_path: str = "multi-cri"
    image_remote_mount: str = ""
    build_in_cluster: bool = True
    build_in: Literal["login", "job"] = "login"
    builds_at_once: int = Field(default=4, ge=1, le=64)
    image_checksum: bool = False
    image_directory_bytes: int = Field(default=0, ge=0)
    image_directory_count: int = Field(default=0, ge=0)
    known_hosts: str = "/etc/ssh/ssh_known_hosts"
    host_key: Annotated[str, AfterValidator(_host_key)] | None = None
    host_key_policy: Literal["strict", "tofu"] = "strict"
    learnt_hosts: str = "/var/lib/multicri-proxy/known_hosts"
    proxy_jump: tuple[Annotated[Jump, BeforeValidator(_jump)], ...] = ()
    allowed_hosts: tuple[str, ...] | None = None
    prerun: Annotated[str, Field(max_length=LONGEST_PRERUN)] = ""
    connect_timeout_s: Seconds = 20.0
    command_timeout_s: Seconds = 60.0
    build_timeout_s: Seconds = 3600.0
    exec_by: Literal["srun", "ssh"] = "srun"
    exec_agents: int = Field(default=16, ge=0, le=256)
    way_back: tuple[Destination, ...] = ()
    poll_interval_s: Seconds = 5.0
    max_jobs: Annotated[int, Field(ge=1)] | None = None
    image_builder: Literal["auto", "apptainer", "singularity", "charliecloud", "charliecloud-squashfs"] = "auto"
    job_options_allowed: tuple[str, ...] = ()
    job_options_default: str = ""
    job_shell: bool = False
    mpi: Annotated[str, matching(r"[a-z][a-z0-9_]{0,31}", "a type that srun --mpi=list names, or mpirun")] | None = None
    pod_model: PodModel = "job-per-container"
    allocation_idle_s: Seconds = 3600.0
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

    @field_validator("shared_directory", "shared_directory_in_cluster")
    @classmethod
    def _shared(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError("must be an absolute path")
        return _checked_path(value.replace("{user}", "@user@")).replace("@user@", "{user}") if value else value

    @field_validator("rest_ca_file")
    @classmethod
    def _absolute_or_empty(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError("must be an absolute path")
        return value

    @field_validator("known_hosts", "learnt_hosts", "kubelet_directory")
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

    @field_validator("users", mode="before")
    @classmethod
    def _namespaces_alone(cls, value: object) -> object:
        for name in value if isinstance(value, Mapping) else ():
            if isinstance(name, str) and ":" in name:
                raise ValueError(
                    f"{name!r}: the kubelet tells a runtime a pod's namespace, not its service account: "
                    "name the namespace alone, and give the service account a namespace of its own"
                )
        return value

    @field_validator("prerun")
    @classmethod
    def _text(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("must not hold a NUL byte")
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_rest()
        if self.way_back and not self.exec_agents:
            raise ValueError("exec_agents: with way_back jobs need them: must be 1 or more")
        if self.exec_by == "ssh" and not self.exec_agents:
            raise ValueError("exec_agents: with exec_by: ssh commands need them: must be 1 or more")
        if not self.place and (name := next((n for n in ("user", "users", "host_key") if getattr(self, n)), None)):
            raise ValueError(f"{name}: needs to know the cluster: set host, or rest_url")
        if self.pod_credentials == "forbid" and not (self.user or self.users):
            raise ValueError("pod_credentials: forbids pods their own, and there is no other: set user or users")
        if self.host_key_policy == "tofu" and self.allowed_hosts is None and self.pod_credentials == "allow":
            raise ValueError(
                "host_key_policy: with tofu a pod could have any host trusted: set allowed_hosts, "
                "or pod_credentials: forbid"
            )
        self.default_options()
        return self

    def _check_rest(self) -> None:
        people: tuple[Person, ...] = (self, *self.users.values())
        if self.rest_url is None:
            if any(person.token_file for person in people):
                raise ValueError("token_file: is for slurmrestd, which is not sshd: set rest_url instead of host")
            return
        if self.host is not None:
            raise ValueError("rest_url: must not be set together with host")
        if not (self.user or self.users):
            raise ValueError("rest_url: pods bring no tokens of their own: set user or users")
        if any(person.user and not person.token_file for person in people):
            raise ValueError("rest_url: slurmrestd wants a token: set token_file with each user")
        if not self.shared_directory:
            raise ValueError("rest_url: files get to the cluster by a directory that both see: set shared_directory")
        images, shared = self.image_remote_mount, self.shared_directory_in_cluster or self.shared_directory
        if images.startswith("/") and not f"{images}/".startswith(f"{shared}/"):
            raise ValueError(f"image_remote_mount: with rest_url it must be below {shared}, or relative to it")
        host = urlsplit(self.rest_url).hostname
        if self.rest_url.startswith("http:") and host not in LOOPBACK and not self.rest_unencrypted:
            raise ValueError("rest_url: sends tokens in the clear: use https, or set rest_unencrypted: true")

    @property
    def place(self) -> tuple[str, int] | None:
        """Host and port; the path of a socket, and 0. None if a pod is to say."""
        if self.rest_url is None:
            return (self.host, self.port) if self.host is not None else None
        url = urlsplit(self.rest_url)
        if url.scheme == "unix":
            return url.path, 0
        return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)

    def default_options(self) -> tuple[str, ...]:
        """job_options_default, clean."""
        try:
            return custom_options(self.job_options_default, self.job_options_allowed)
        except InvalidArgument as error:
            raise ValueError(f"job_options_default: {str(error).partition(', ')[2]}") from error

    def allows_host(self, host: str) -> bool:
        """Whether a pod may name this host."""
        if host == self.host or self.allowed_hosts is None:
            return True
        return any(fnmatchcase(host.lower(), pattern.lower()) for pattern in self.allowed_hosts)


def read_settings(section: Mapping[str, object], name: str = "slurm") -> Settings:
    """One profile. name: of the section. Raises InvalidArgument naming each setting that is wrong and why."""
    try:
        return Settings.model_validate(dict(section))
    except ValidationError as error:
        raise InvalidArgument("; ".join(_sentence(name, e["loc"], e["msg"]) for e in error.errors())) from error


def _sentence(section: str, place: tuple[int | str, ...], message: str) -> str:
    """A validator of several fields begins with the name of one."""
    message = message.removeprefix("Value error, ")
    field, colon, rest = message.partition(": ")
    if colon and field in Settings.model_fields | Jump.model_fields:
        place, message = (*place, field), rest
    return f"{'.'.join((section, *map(str, place)))}: {message}"


def _checked_path(value: str) -> str:
    if not _PATH.fullmatch(value):
        raise ValueError("must consist of A-Z a-z 0-9 . _ / @ + -")
    parts = [part for part in value.split("/") if part]
    if not parts or any(part in {".", ".."} or part.startswith("-") for part in parts):
        raise ValueError("must have no part that is empty, . or .., or begins with -")
    return ("/" if value.startswith("/") else "") + "/".join(parts)
