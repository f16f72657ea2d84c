"""Whose credentials go to which registry. Pure."""

import json
import re

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_proxy.api.image import RegistryAuth, username_and_password

LONGEST_BYTES = 64 * 1024
_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HEADER = re.compile(r"[\x21-\x7e]*", re.ASCII)


def registry_in(address: str) -> str:
    """The registry that a server's address in credentials means: a host with an optional port, or a URL of one."""
    host = re.sub(r"^https?://", "", address.strip()).partition("/")[0].lower()
    return "docker.io" if host in _DOCKER_HUB else host


def checked(auth: RegistryAuth, registry: str) -> RegistryAuth | None:
    """What of it may be sent to a registry; None if it is for another one, or empty.

    Raises InvalidArgument naming the field that cannot be used.
    """
    if auth.server_address and registry_in(auth.server_address) != registry:
        return None
    fields = {name: getattr(auth, name) for name in ("username", "password", "identity_token", "registry_token")}
    for name, value in fields.items():
        if len(value.encode()) > LONGEST_BYTES:
            raise InvalidArgument(f"auth.{name}: is longer than {LONGEST_BYTES} bytes")
        if "\0" in value or "\n" in value or "\r" in value:
            raise InvalidArgument(f"auth.{name}: must be one line")
    if not _HEADER.fullmatch(auth.registry_token) or not _HEADER.fullmatch(auth.identity_token):
        raise InvalidArgument("auth.registry_token, auth.identity_token: must be of printable ASCII without spaces")
    if ":" in auth.username:
        raise InvalidArgument("auth.username: must not hold a colon")
    if not any(fields.values()):
        return None
    return RegistryAuth(**fields, server_address=registry)


def of_docker_config(content: bytes, registry: str, what: str) -> RegistryAuth | None:
    """What a ``config.json`` of Docker's says of a registry; None if nothing. Credential helpers are not run.

    what: the file, for a human. Raises FailedPrecondition if it cannot be read. Source: docker-login(1), config.json.
    """
    try:
        entries = json.loads(content).get("auths") or {}
        entry = next((value for address, value in entries.items() if registry_in(address) == registry), None)
        if not entry:
            return None
        username, password = entry.get("username", ""), entry.get("password", "")
        if entry.get("auth"):
            username, password = username_and_password(entry["auth"])
        auth = RegistryAuth(
            username=username,
            password=password,
            identity_token=entry.get("identitytoken", ""),
            registry_token=entry.get("registrytoken", ""),
        )
        return checked(auth, registry)
    except (ValueError, AttributeError, TypeError, RecursionError, InvalidArgument) as error:
        raise FailedPrecondition(f"{what} has no usable entry for {registry}") from error
