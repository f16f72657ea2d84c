"""CNI's network configuration, as the admin has put it on the node.

Source: CNI specification 1.0.0, section 1; of several files containerd takes the first by name, and so do we.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multicri_proxy.api.errors import FailedPrecondition, Unavailable

_SUFFIXES = (".conflist", ".conf", ".json")
_VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Of the specification. Before 0.3 results had another form, and no chains."""

_LARGEST_BYTES = 1 << 20

Plugin = Mapping[str, Any]
"""A plug-in's configuration, with its `type`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A chain of plug-ins that make one network."""

    name: str
    cni_version: str
    plugins: tuple[Plugin, ...]

    def can(self, capability: str) -> bool:
        """Whether a plug-in takes this from the runtime, as ``portMappings``."""
        return any(plugin.get("capabilities", {}).get(capability) is True for plugin in self.plugins)


def read_network(directory: Path) -> Network:
    """The network of the first file by name. Blocks.

    Raises Unavailable if there is none, which may change without us, FailedPrecondition if it is no network.
    """
    try:
        names = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)
    except OSError as error:
        raise Unavailable(f"network_conf_dir: {directory} cannot be read: {error.strerror}") from error
    if not names:
        raise Unavailable(f"network_conf_dir: {directory} has no .conflist or .conf: no pod network is installed")
    try:
        with names[0].open("rb") as file:
            text = file.read(_LARGEST_BYTES)
    except OSError as error:
        raise Unavailable(f"{names[0]} cannot be read: {error.strerror}") from error
    try:
        return network_of(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise FailedPrecondition(f"{names[0]} is no CNI configuration: {error}") from error


def network_of(conf: object) -> Network:
    """A list, or a single plug-in as a list of one. Raises ValueError that names the field."""
    if not isinstance(conf, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  (of a text, not of a program)
    version = conf.get("cniVersion", "")
    if version not in _VERSIONS:
        raise ValueError(f"cniVersion: {version!r} is not among {', '.join(_VERSIONS)}")
    if not isinstance(conf.get("name"), str) or not conf["name"]:
        raise ValueError("name: is missing")
    plugins = conf.get("plugins", [conf])
    if not isinstance(plugins, list) or not plugins:
        raise ValueError("plugins: must be a list of at least one")
    for index, plugin in enumerate(plugins):
        _check_plugin(f"plugins[{index}]", plugin)
    return Network(name=conf["name"], cni_version=version, plugins=tuple(plugins))


def _check_plugin(place: str, plugin: object) -> None:
    if not isinstance(plugin, dict):
        raise ValueError(f"{place}: is no JSON object")  # noqa: TRY004
    kind = plugin.get("type")
    if not isinstance(kind, str) or not kind or "/" in kind or kind in (".", ".."):
        raise ValueError(f"{place}.type: {kind!r} is no name of a program")
    if not isinstance(plugin.get("capabilities", {}), dict):
        raise ValueError(f"{place}.capabilities: is no JSON object")  # noqa: TRY004
