"""Every setting, from flags, environment and a YAML file, in one model. Flags win over environment over file."""

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from multicri_proxy.api.errors import InvalidArgument

ENVIRONMENT_PREFIX = "MULTICRI_"
"""``MULTICRI_SOCKET_PATH`` is ``--socket-path``."""

_ADAPTER_ENVIRONMENT = re.compile(r"CRI_([A-Z]+)_([A-Z_]+)")
"""``CRI_SLURM_MOUNT_PATH`` is ``mount_path`` in the section ``slurm``."""

_NOT_YET = {
    "enable_pod_network": "a network namespace for each multicri pod",
    "network_bin_dir": "a network namespace for each multicri pod",
    "network_conf_dir": "a network namespace for each multicri pod",
}


def _endpoints(value: object) -> object:
    """``default:/run/a.sock,kata:/run/b.sock`` as a mapping; a mapping as it is. Paths lose ``unix://``."""
    if isinstance(value, str):
        pairs = [item.strip().partition(":") for item in value.split(",") if item.strip()]
        if bad := [name for name, _, path in pairs if not path or name == "unix"]:
            raise ValueError(f"{bad[0]!r} is no name:path; write default:/run/containerd/containerd.sock")
        names = [name for name, _, _ in pairs]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{repeated[0]!r} is named twice")
        value = {name: path for name, _, path in pairs}
    if isinstance(value, Mapping):
        return {name: _bare_path(path) for name, path in value.items()}
    return value


def _words(value: object) -> object:
    """``a,b`` as a list; a list as it is."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def _unrepeated(value: tuple[str, ...]) -> tuple[str, ...]:
    if repeated := [name for name in value if value.count(name) > 1]:
        raise ValueError(f"{repeated[0]!r} is named twice")
    return value


def _bare_path(value: object) -> object:
    """``unix:///run/a.sock`` and ``unix:/run/a.sock`` as ``/run/a.sock``."""
    return re.sub(r"^unix:(//)?(?=/)", "", value) if isinstance(value, str) else value


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError(f"{str(value)!r} is no absolute path")
    return value


def _absolute_or_empty(value: str) -> str:
    return str(_absolute(Path(value))) if value else value


def _matching(pattern: str, wanted: str) -> AfterValidator:
    """Empty, or what a pattern allows."""

    def check(value: str) -> str:
        if value and not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is no {wanted}")
        return value

    return AfterValidator(check)


def _local_address(value: str) -> str:
    """Empty, an absolute path, or a loopback address with a port: metrics are nobody else's."""
    host, _, port = value.rpartition(":")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not value or value.startswith("/") or (loopback and port.isdecimal() and 0 < int(port) < 1 << 16):
        return value
    raise ValueError(f"{value!r} is neither a loopback address with a port, as 127.0.0.1:9464, nor an absolute path")


def _ip_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{value!r} is no IP address; write 127.0.0.1") from None


Directory = Annotated[Path, AfterValidator(_absolute)]
SocketPath = Annotated[Path, BeforeValidator(_bare_path), AfterValidator(_absolute)]
Handler = Annotated[str, Field(min_length=1), _matching("[a-z0-9]([-a-z0-9.]*[a-z0-9])?", "RuntimeClass handler")]
Handlers = Annotated[tuple[Handler, ...], BeforeValidator(_words), Field(min_length=1), AfterValidator(_unrepeated)]
KeyFile = Annotated[str, AfterValidator(_absolute_or_empty)]
SocketMode = Annotated[str, _matching("0?[0-7]{3}", "octal mode; write 0660")]
SocketOwner = Annotated[str, _matching("[^:]+:[^:]+", "user:group; write root:root")]
LocalAddress = Annotated[str, AfterValidator(_local_address)]
IpAddress = Annotated[str, AfterValidator(_ip_address)]
Url = Annotated[str, _matching("https?://.+", "http URL")]


class Settings(BaseModel):
    """What ``multicri-proxy serve`` can be told. A field's description is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    socket_path: SocketPath = Field(
        default=Path("/run/multicri.sock"), description="unix socket that the kubelet talks to"
    )
    remote_runtime_endpoints: Annotated[dict[str, str], BeforeValidator(_endpoints)] = Field(
        default={"default": "/run/containerd/containerd.sock"},
        description="runtimes behind sockets, name:path separated by commas; a RuntimeClass handler picks one by its "
        "name, 'default' gets all the rest; empty: every pod is a multicri pod",
    )
    remote_image_endpoints: Annotated[dict[str, str], BeforeValidator(_endpoints)] = Field(
        default={},
        description="sockets of those runtimes' image services, name:path separated by commas; a name that is not here "
        "has its images where it has its pods",
    )
    socket_mode: SocketMode = Field(
        default="",
        description="mode of our socket, octal, as 0660; empty: that of the default runtime's socket, else 0600",
    )
    socket_owner: SocketOwner = Field(
        default="",
        description="owner of our socket, as user:group; empty: that of the default runtime's socket, else ours",
    )
    allow_untested_runtimes: bool = Field(
        default=False, description="serve runtimes that nobody has tried: neither containerd 1, 2 nor CRI-O 1"
    )
    drain_s: float = Field(
        default=5.0, ge=0, le=600, description="how long calls in flight may go on after SIGTERM, in seconds"
    )
    metrics_address: LocalAddress = Field(
        default="",
        description="where Prometheus finds /metrics: loopback host:port, or path of a unix socket; empty: nowhere",
    )
    tracing_endpoint: Url = Field(
        default="",
        description="OTLP collector that gets a span for each call, as http://127.0.0.1:4318/v1/traces; empty: none",
    )
    dump: str = Field(
        default="", description="which CRI calls to dump, and in what detail: level:pattern,...; empty: none"
    )
    dump_file: str = Field(default="", description="file to dump to, mode 0600, appended to; empty: stderr")
    dump_stderr: bool = Field(default=False, description="dump to stderr as well as to dump_file")
    dump_format: Literal["yaml", "json"] = Field(
        default="yaml", description="form of the dump; json can be shown and replayed"
    )
    dump_max_bytes: int = Field(
        default=100_000_000, ge=1, description="size at which the dump file is put aside as .1, .2, ..."
    )
    dump_files: int = Field(default=5, ge=1, le=1000, description="how many dump files there are at most")
    dump_redact: bool = Field(default=True, description="take secrets out of dumps")
    dump_redact_names: str = Field(
        default="PASS|SECRET|TOKEN|KEY|CREDENTIAL|AUTH|COOKIE",
        description="regular expression for names of secret environment variables; CLUSTER_* always is",
    )
    admin_socket: str = Field(
        default="",
        description="unix socket for 'dump' and 'jobs'; empty: beside socket_path, as /run/multicri-admin.sock",
    )
    adapter_name: str = Field(default="slurm", description="what runs multicri pods")
    handler: Handlers = Field(
        default=("multicri",),
        description="RuntimeClass handlers that make a pod a multicri pod, separated by commas; an adapter may tell "
        "clusters apart by them",
    )
    root_dir: Directory = Field(default=Path("/var/lib/multicri-proxy"), description="directory of the proxy's key")
    secret_key_file: KeyFile = Field(
        default="",
        description="the key that credentials are encrypted with, made if it is not there; empty: secret.key among the "
        "credentials that systemd gives the unit, else root_dir/secret.key",
    )
    resources_cache_path: Directory = Field(
        default=Path("/var/lib/multicri-proxy/resources"),
        description="directory of the records of sandboxes, containers and images",
    )
    pod_ip: str = Field(default="", description="IP of multicri pods; empty: the node's")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least important log lines to write"
    )
    enable_pod_persistence: bool = Field(
        default=True, description="keep records through restarts; cannot be switched off: a job is submitted once"
    )
    sandbox_image: str = Field(default="", description="refused: no adapter starts a pause container")
    enable_pod_network: bool = Field(default=False, description="not built yet")
    network_bin_dir: str = Field(default="", description="not built yet")
    network_conf_dir: str = Field(default="", description="not built yet")
    stream_addr: IpAddress = Field(
        default="127.0.0.1",
        description="IP where exec, attach and port-forward of multicri pods are served, for the kubelet of this node",
    )
    stream_port: int = Field(
        default=10010, ge=0, le=65535, description="TCP port for that, opened when it is first needed; 0: any free one"
    )
    stream_tls: bool = Field(default=False, description="serve that by TLS")
    stream_tls_cert: str = Field(
        default="", description="PEM file of the certificate for that; empty: one is made at each start"
    )
    stream_tls_key: str = Field(default="", description="PEM file of its key")
    adapters: dict[str, dict[str, Any]] = Field(
        default={}, description="file only: each adapter's own section, by its name"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, what in _NOT_YET.items():
            if getattr(self, name):
                raise ValueError(f"{name}: {what} is not built yet; remove this setting")
        if bool(self.stream_tls_cert) != bool(self.stream_tls_key):
            raise ValueError("stream_tls_cert: wants stream_tls_key, and the other way round")
        if self.stream_tls_cert and not self.stream_tls:
            raise ValueError("stream_tls_cert: is not used unless stream_tls is true")
        if self.sandbox_image:
            raise ValueError("sandbox_image: multicri pods have no pause container; set it in containerd instead")
        if not self.enable_pod_persistence:
            raise ValueError("enable_pod_persistence: without records a job could be submitted twice; leave it on")
        for setting in ("remote_runtime_endpoints", "remote_image_endpoints"):
            for name, path in getattr(self, setting).items():
                if not path.startswith("/"):
                    raise ValueError(f"{setting}: {name}: {path!r} is no absolute path of a socket")
                if path == str(self.socket_path):
                    raise ValueError(f"{setting}: {name} is our own socket_path: calls would go in circles")
        if lonely := self.remote_image_endpoints.keys() - self.remote_runtime_endpoints.keys():
            raise ValueError(f"remote_image_endpoints: {min(lonely)!r} is no name in remote_runtime_endpoints")
        if both := [name for name in self.handler if name in self.remote_runtime_endpoints]:
            raise ValueError(f"handler: {both[0]!r} is the name of an endpoint too; rename one")
        return self


FLAGS = tuple(name for name in Settings.model_fields if name != "adapters")
"""Settings that have a flag: ``socket_path`` is ``--socket-path``."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A value, and where its author finds it."""

    value: object
    source: str


def load(*, flags: Mapping[str, str], environment: Mapping[str, str], file: Path | None) -> Settings:
    """All settings from all three places.

    flags: by setting name, unset ones left out. Raises InvalidArgument, which names the setting and its source.
    """
    given: dict[str, _Given] = {}
    sections: dict[str, dict[str, Any]] = {}
    if file:
        for name, value in _read(file).items():
            if isinstance(value, dict) and name not in Settings.model_fields:
                sections[name] = dict(value)
            else:
                given[name] = _Given(value, f"in {file}")
    for variable, text in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if variable.startswith(ENVIRONMENT_PREFIX) and difflib.get_close_matches(name, FLAGS):
            given[name] = _Given(text, f"from {variable}")  # others with the prefix may be somebody else's
        elif match := _ADAPTER_ENVIRONMENT.fullmatch(variable):
            sections.setdefault(match[1].lower(), {})[match[2].lower()] = text
    for name, text in flags.items():
        given[name] = _Given(text, f"from --{name.replace('_', '-')}")
    for name, item in given.items():
        if name not in FLAGS:
            near = difflib.get_close_matches(name, FLAGS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InvalidArgument(f"{name} ({item.source}) is no setting{hint}")
    try:
        return Settings.model_validate({name: item.value for name, item in given.items()} | {"adapters": sections})
    except ValidationError as error:
        raise InvalidArgument("; ".join(_sentence(dict(e), given) for e in error.errors())) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidArgument(f"cannot read the configuration file {file}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InvalidArgument(f"{file}: wants settings as 'name: value', found {type(content).__name__}")
    return content


def _sentence(error: dict[str, Any], given: Mapping[str, _Given]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    name = str(error["loc"][0]) if error["loc"] else message.partition(":")[0]
    source = f" ({given[name].source})" if name in given else ""
    return f"{name}{source}: {message.removeprefix(f'{name}: ')}"
