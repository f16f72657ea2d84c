"""CNI's part: plug-ins are run one after the other, each with what the one before it has answered.

Source: CNI specification 1.0.0, sections 2 to 5.
"""

import ipaddress
import json
import os
from collections.abc import Mapping
from typing import Any

from multicri_proxy.api.errors import FailedPrecondition, Unavailable
from multicri_proxy.network.attachments import Attachment
from multicri_proxy.network.configuration import Plugin
from multicri_proxy.network.namespaces import is_there
from multicri_proxy.network.programs import Ended, run

INTERFACE = "eth0"

PLUGIN_S = 30.0
"""A plug-in that takes longer is killed."""

_MOST_BYTES = 1 << 20
_LONGEST_COMPLAINT = 500
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where plug-ins find iptables and the like, if our own environment does not say."""


async def add(attachment: Attachment) -> Mapping[str, Any]:
    """Make the network; return the last plug-in's result. Raises Unavailable, and has perhaps made some of it."""
    result: Mapping[str, Any] | None = None
    for plugin in attachment.network.plugins:
        said = await _run("ADD", attachment, plugin, result)
        try:
            result = json.loads(said)
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"CNI plug-in {plugin['type']}: its answer is no JSON") from error
        if not isinstance(result, dict):
            raise Unavailable(f"CNI plug-in {plugin['type']}: its answer is no JSON object")
    return result or {}


async def delete(attachment: Attachment) -> None:
    """Undo the network, whatever there is of it: as often as wanted. Raises Unavailable."""
    for plugin in reversed(attachment.network.plugins):
        await _run("DEL", attachment, plugin, attachment.result)


def addresses_of(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The pod's IPs, IPv4 before IPv6. Raises FailedPrecondition if there are none."""
    try:
        found = [ipaddress.ip_interface(one["address"]).ip for one in result.get("ips", ())]
    except (KeyError, TypeError, ValueError) as error:
        raise FailedPrecondition(f"the CNI network answered with an address that is none: {error}") from error
    if not found:
        raise FailedPrecondition("the CNI network gave the pod no IP: its first plug-in needs an `ipam`")
    return tuple(str(ip) for ip in sorted(found, key=lambda ip: ip.version))


async def _run(command: str, attachment: Attachment, plugin: Plugin, previous: Mapping[str, Any] | None) -> bytes:
    kind = plugin["type"]
    environment = {
        "PATH": os.environ.get("PATH", _PATH),
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": attachment.sandbox_id,
        # of a namespace that is gone plug-ins are told by its absence: some complain of a path without one
        "CNI_NETNS": str(attachment.netns) if is_there(attachment.netns) else "",
        "CNI_IFNAME": INTERFACE,
        "CNI_ARGS": attachment.args,
        "CNI_PATH": str(attachment.bin_dir),
    }
    ended = await run(
        [str(attachment.bin_dir / kind)],
        stdin=_configuration(attachment, plugin, previous),
        environment=environment,
        timeout_s=PLUGIN_S,
        most_bytes=_MOST_BYTES,
    )
    if ended.exit_code:
        raise Unavailable(f"CNI plug-in {kind} failed ({command}): {_complaint(ended)}")
    return ended.stdout


def _configuration(attachment: Attachment, plugin: Plugin, previous: Mapping[str, Any] | None) -> bytes:
    wanted = {name for name, is_wanted in plugin.get("capabilities", {}).items() if is_wanted is True}
    given = {name: value for name, value in attachment.capabilities.items() if name in wanted}
    conf = {name: value for name, value in plugin.items() if name not in ("capabilities", "plugins")}
    conf |= {"cniVersion": attachment.network.cni_version, "name": attachment.network.name}
    if given:
        conf["runtimeConfig"] = given
    if previous is not None:
        conf["prevResult"] = previous
    return json.dumps(conf).encode()


def _complaint(ended: Ended) -> str:
    """What it says of its error, else what it wrote."""
    try:
        error = json.loads(ended.stdout)
        text = ": ".join(str(error[name]) for name in ("msg", "details") if error.get(name))
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError):
        text = ""
    text = text or (ended.stderr or ended.stdout).decode(errors="replace").strip()
    return " ".join(text.split())[:_LONGEST_COMPLAINT] or f"exit code {ended.exit_code}"
