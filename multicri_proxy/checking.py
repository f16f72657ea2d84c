"""What a user wrote, in flags, environment and a YAML file, as `Settings`. Flags win over environment over file.

Not imported by the daemon, which has it run as a child: see `reading`.
"""

import ipaddress
import pickle
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, get_type_hints

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.plugins import plug_in
from multicri_proxy.settings import DEFAULTS, FLAGS, Settings

if TYPE_CHECKING:
    from multicri_proxy.api.adapter import SettingsCheck

_CLUSTERS, _THIS_NODE = "slurm", "charliecloud"
"""The adapters that are taken if none is named."""

ENVIRONMENT_PREFIX = "MULTICRI_"
"""``MULTICRI_SOCKET_PATH`` is ``--socket-path``."""

_ADAPTER_ENVIRONMENT = re.compile(r"CRI_([A-Z]+)_([A-Z_]+)")
"""``CRI_SLURM_MOUNT_PATH`` is ``mount_path`` in the section ``slurm``."""


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


_HANDLER = Annotated[str, Field(min_length=1), _matching("[a-z0-9]([-a-z0-9.]*[a-z0-9])?", "RuntimeClass handler")]
_DIRECTORY = (AfterValidator(_absolute),)

_CHECKS: Mapping[str, tuple[Any, ...]] = {
    "socket_path": (BeforeValidator(_bare_path), AfterValidator(_absolute)),
    "remote_runtime_endpoints": (BeforeValidator(_endpoints),),
    "remote_image_endpoints": (BeforeValidator(_endpoints),),
    "socket_mode": (_matching("0?[0-7]{3}", "octal mode; write 0660"),),
    "socket_owner": (_matching("[^:]+:[^:]+", "user:group; write root:root"),),
    "drain_s": (Field(ge=0, le=600),),
    "metrics_address": (AfterValidator(_local_address),),
    "tracing_endpoint": (_matching("https?://.+", "http URL"),),
    "dump_max_bytes": (Field(ge=1),),
    "dump_files": (Field(ge=1, le=1000),),
    "handler": (BeforeValidator(_words), Field(min_length=1), AfterValidator(_unrepeated)),
    "root_dir": _DIRECTORY,
    "secret_key_file": (AfterValidator(_absolute_or_empty),),
    "resources_cache_path": _DIRECTORY,
    "network_bin_dir": _DIRECTORY,
    "network_conf_dir": _DIRECTORY,
    "stream_addr": (AfterValidator(_ip_address),),
    "stream_port": (Field(ge=0, le=65535),),
}
"""What a setting's type does not say."""

_TYPES = get_type_hints(Settings) | {"handler": tuple[_HANDLER, ...]}

_CHECKED = {name: Annotated[_TYPES[name], *checks] for name, checks in _CHECKS.items()}

_FIELDS: dict[str, Any] = {name: (_CHECKED.get(name, type_), getattr(DEFAULTS, name)) for name, type_ in _TYPES.items()}

_Model: type[BaseModel] = create_model(
    "Settings", __config__=ConfigDict(extra="forbid", coerce_numbers_to_str=True), **_FIELDS
)


def _consistent(settings: Settings) -> Settings:
    """Raises ValueError that begins with the setting's name."""
    if bool(settings.stream_tls_cert) != bool(settings.stream_tls_key):
        raise ValueError("stream_tls_cert: wants stream_tls_key, and the other way round")
    if settings.stream_tls_cert and not settings.stream_tls:
        raise ValueError("stream_tls_cert: is not used unless stream_tls is true")
    if settings.sandbox_image:
        raise ValueError("sandbox_image: multicri pods have no pause container; set it in containerd instead")
    if not settings.enable_pod_persistence:
        raise ValueError("enable_pod_persistence: without records a job could be submitted twice; leave it on")
    for setting in ("remote_runtime_endpoints", "remote_image_endpoints"):
        for name, path in getattr(settings, setting).items():
            if not path.startswith("/"):
                raise ValueError(f"{setting}: {name}: {path!r} is no absolute path of a socket")
            if path == str(settings.socket_path):
                raise ValueError(f"{setting}: {name} is our own socket_path: calls would go in circles")
    if lonely := settings.remote_image_endpoints.keys() - settings.remote_runtime_endpoints.keys():
        raise ValueError(f"remote_image_endpoints: {min(lonely)!r} is no name in remote_runtime_endpoints")
    if both := [name for name in settings.handler if name in settings.remote_runtime_endpoints]:
        raise ValueError(f"handler: {both[0]!r} is the name of an endpoint too; rename one")
    return settings


def _with_adapter(settings: Settings) -> Settings:
    """With no runtime behind a socket and no cluster, there is this node."""
    if settings.adapter_name:
        return settings
    is_alone = not settings.remote_runtime_endpoints and not settings.adapters.get(_CLUSTERS)
    return replace(settings, adapter_name=_THIS_NODE if is_alone else _CLUSTERS)


_NAMES = tuple(flag.name for flag in FLAGS)


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
            if isinstance(value, dict) and name not in _Model.model_fields:
                sections[name] = dict(value)
            else:
                given[name] = _Given(value, f"in {file}")
    for variable, text in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if variable.startswith(ENVIRONMENT_PREFIX) and _nearest(name):
            given[name] = _Given(text, f"from {variable}")  # others with the prefix may be somebody else's
        elif match := _ADAPTER_ENVIRONMENT.fullmatch(variable):
            sections.setdefault(match[1].lower(), {})[match[2].lower()] = text
    for name, text in flags.items():
        given[name] = _Given(text, f"from --{name.replace('_', '-')}")
    for name, item in given.items():
        if name not in _NAMES:
            near = _nearest(name)
            hint = f"; did you mean {near}?" if near else ""
            raise InvalidArgument(f"{name} ({item.source}) is no setting{hint}")
    try:
        model = _Model.model_validate({name: item.value for name, item in given.items()} | {"adapters": sections})
        return _with_adapter(_consistent(Settings(**dict(model))))
    except ValidationError as error:
        raise InvalidArgument("; ".join(_sentence(e["loc"], e["msg"], given) for e in error.errors())) from error
    except ValueError as error:
        raise InvalidArgument(_sentence((), str(error), given)) from error


def _nearest(name: str) -> str | None:
    import difflib  # noqa: PLC0415  (a daemon's start waits for this module)

    return next(iter(difflib.get_close_matches(name, _NAMES, n=1)), None)


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


def _sentence(place: tuple[int | str, ...], message: str, given: Mapping[str, _Given]) -> str:
    message = message.removeprefix("Value error, ")
    name = str(place[0]) if place else message.partition(":")[0]
    source = f" ({given[name].source})" if name in given else ""
    return f"{name}{source}: {message.removeprefix(f'{name}: ')}"


def _check_sections(settings: Settings) -> None:
    """Have the adapter and the images check their own."""
    check: SettingsCheck
    for check, name in (
        (plug_in("adapter_settings", settings.adapter_name), settings.adapter_name),
        (plug_in("images_settings", "pool"), "images"),
    ):
        check(settings.adapters.get(name, {}), settings.handler)


def main(question: IO[bytes], answer: IO[bytes]) -> None:
    """The child of `multicri_proxy.reading`: answers with `Settings`, or with what is wrong."""
    flags, environment, file = pickle.load(question)  # noqa: S301  (the daemon's own)
    found: Settings | str
    try:
        found = load(flags=flags, environment=environment, file=file)
        _check_sections(found)
    except InvalidArgument as error:
        found = str(error)
    pickle.dump(found, answer)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
