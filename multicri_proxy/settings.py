"""Every setting: its name, what it may hold, its default and its help. What a user wrote becomes one in `checking`."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from multicri_proxy.api.places import SOCKET_DIRECTORY, STATE_DIRECTORY


def _setting(default: object, about: str) -> Any:  # whatever the field's type is
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata={"about": about})
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``multicri-proxy serve`` can be told."""

    socket_path: Path = _setting(SOCKET_DIRECTORY / "multicri.sock", "unix socket that the kubelet talks to")
    remote_runtime_endpoints: dict[str, str] = _setting(
        {"default": "/run/containerd/containerd.sock"},
        "runtimes behind sockets, name:path separated by commas; a RuntimeClass handler picks one by its name, "
        "'default' gets all the rest; empty: every pod is a multicri pod",
    )
    remote_image_endpoints: dict[str, str] = _setting(
        {},
        "sockets of those runtimes' image services, name:path separated by commas; a name that is not here has its "
        "images where it has its pods",
    )
    socket_mode: str = _setting(
        "", "mode of our socket, octal, as 0660; empty: that of the default runtime's socket, else 0600"
    )
    socket_owner: str = _setting(
        "", "owner of our socket, as user:group; empty: that of the default runtime's socket, else ours"
    )
    allow_untested_runtimes: bool = _setting(
        False, "serve runtimes that nobody has tried: neither containerd 1, 2 nor CRI-O 1"
    )
    drain_s: float = _setting(5.0, "how long calls in flight may go on after SIGTERM, in seconds")
    metrics_address: str = _setting(
        "", "where Prometheus finds /metrics: loopback host:port, or path of a unix socket; empty: nowhere"
    )
    tracing_endpoint: str = _setting(
        "", "OTLP collector that gets a span for each call, as http://127.0.0.1:4318/v1/traces; empty: none"
    )
    dump: str = _setting("", "which CRI calls to dump, and in what detail: level:pattern,...; empty: none")
    dump_file: str = _setting("", "file to dump to, mode 0600, appended to; empty: stderr")
    dump_stderr: bool = _setting(False, "dump to stderr as well as to dump_file")
    dump_format: Literal["yaml", "json"] = _setting("yaml", "form of the dump; json can be shown and replayed")
    dump_max_bytes: int = _setting(100_000_000, "size at which the dump file is put aside as .1, .2, ...")
    dump_files: int = _setting(5, "how many dump files there are at most")
    dump_redact: bool = _setting(True, "take secrets out of dumps")
    dump_redact_names: str = _setting(
        "PASS|SECRET|TOKEN|KEY|CREDENTIAL|AUTH|COOKIE",
        "regular expression for names of secret environment variables; CLUSTER_* always is",
    )
    admin_socket: str = _setting(
        "", "unix socket for 'dump', 'jobs' and 'images'; empty: beside socket_path, as /run/multicri-admin.sock"
    )
    adapter_name: str = _setting(
        "",
        "what runs multicri pods: slurm or charliecloud; empty: slurm, but charliecloud if there are neither remote "
        "runtime endpoints nor a section slurm",
    )
    handler: tuple[str, ...] = _setting(
        ("multicri",),
        "RuntimeClass handlers that make a pod a multicri pod, separated by commas; an adapter may tell clusters "
        "apart by them",
    )
    root_dir: Path = _setting(STATE_DIRECTORY, "directory of the proxy's key")
    secret_key_file: str = _setting(
        "",
        "the key that credentials are encrypted with, made if it is not there; empty: secret.key among the "
        "credentials that systemd gives the unit, else root_dir/secret.key",
    )
    resources_cache_path: Path = _setting(
        STATE_DIRECTORY / "resources", "directory of the records of sandboxes, containers and images"
    )
    pod_ip: str = _setting("", "IP of multicri pods that have no network of their own; empty: the node's")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "the least important log lines to write")
    enable_pod_persistence: bool = _setting(
        True, "keep records through restarts; cannot be switched off: a job is submitted once"
    )
    sandbox_image: str = _setting("", "refused: no adapter starts a pause container")
    enable_pod_network: bool = _setting(
        False, "give each multicri pod a network namespace and an IP by CNI, and lead its ports to the job"
    )
    network_bin_dir: Path = _setting(Path("/opt/cni/bin"), "directory of CNI's plug-ins; Debian's: /usr/lib/cni")
    network_conf_dir: Path = _setting(
        Path("/etc/cni/net.d"), "directory of CNI's configurations, of which the first one by name is taken"
    )
    stream_addr: str = _setting(
        "127.0.0.1", "IP where exec, attach and port-forward of multicri pods are served, for the kubelet of this node"
    )
    stream_port: int = _setting(10010, "TCP port for that, opened when it is first needed; 0: any free one")
    stream_tls: bool = _setting(False, "serve that by TLS")
    stream_tls_cert: str = _setting("", "PEM file of the certificate for that; empty: one is made at each start")
    stream_tls_key: str = _setting("", "PEM file of its key")
    adapters: dict[str, dict[str, Any]] = _setting({}, "file only: each adapter's own section, by its name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A setting on the command line. name: the setting's; ``socket_path`` is ``--socket-path``."""

    name: str
    about: str
    default: object
    is_switch: bool


DEFAULTS = Settings()

FLAGS = tuple(
    Flag(
        name=one.name,
        about=one.metadata["about"],
        default=getattr(DEFAULTS, one.name),
        is_switch=one.type is bool,
    )
    for one in fields(Settings)
    if one.name != "adapters"
)
"""Settings that have a flag."""
