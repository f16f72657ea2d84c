"""What an admin decides about images: the ``images:`` section of the configuration."""

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from multicri_images.building import DEFAULT_DIRECTORY
from multicri_images.names import SingularityScheme, source_of
from multicri_proxy.api.errors import InvalidArgument

SECTION = "images"


class RegistrySettings(BaseModel):
    """How one registry is reached.

    plain_http: it has no TLS. ca_file: PEM of the authorities that vouch for it, besides those of the system.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    plain_http: bool = False
    ca_file: Annotated[str, Field(pattern=r"^(/[^\x00\n]*)?$")] = ""


class Settings(BaseModel):
    """Of all images.

    resolve: whether the node asks an image's registry what the name means. ``auto`` does without an answer if the
        registry cannot be reached, ``always`` refuses the pull then, ``never`` does not ask.
    resolve_timeout_s: for all questions about one image together.
    platform: which of an image's variants; the cluster's.
    docker_config: file with credentials as ``docker login`` writes it, mode 0600. Pods of every namespace get them.
    singularity_repository: what ``multicri/singularity-repository.<reference>`` means.
    pinned: patterns of names (``multicri/docker.ghcr.io/acme/*``) that are never removed to make room.
    limit_count: how many images there may be; limit_bytes: how much room they may take on this node; 0 is no limit.
        Beyond that those go that nothing uses, least recently used first, but none that was used in the last spare_s.
    directory: on the node, of images that are built there; only the daemon and build_user get in.
    build_user: whom builders on the node run as, if the daemon is root. build_timeout_s: for one build there.
    builds_at_once: how many images are built on the node at a time.
    signatures: whether images without a signature are taken, and that is said (``warn``), or refused (``enforce``).
    signature_keys: file of OpenPGP public keys, for SIF files. cosign_key: file of a public key, for images of
        registries. cosign_arguments: more words for ``cosign verify``.
    registries: by ``host`` or ``host:port``, those that are not reached as usual.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    resolve: Literal["auto", "always", "never"] = "auto"
    resolve_timeout_s: Annotated[float, Field(gt=0, le=120, allow_inf_nan=False)] = 10.0
    platform: Annotated[str, Field(pattern=r"^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?$")] = "linux/amd64"
    docker_config: Annotated[str, Field(pattern=r"^(/[^\x00\n]*)?$")] = ""
    singularity_repository: SingularityScheme = "shub"
    pinned: tuple[str, ...] = ()
    limit_count: Annotated[int, Field(ge=0)] = 1000
    limit_bytes: Annotated[int, Field(ge=0)] = 0
    spare_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 120.0
    directory: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/@+-]+$")] = DEFAULT_DIRECTORY
    build_user: str = "nobody"
    build_timeout_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 3600.0
    builds_at_once: Annotated[int, Field(ge=1, le=64)] = 2
    signatures: Literal["off", "warn", "enforce"] = "off"
    signature_keys: Annotated[str, Field(pattern=r"^(/[^\x00\n]*)?$")] = ""
    cosign_key: Annotated[str, Field(pattern=r"^(/[^\x00\n]*)?$")] = ""
    cosign_arguments: tuple[Annotated[str, Field(pattern=r"^--[a-z][ -~]*$")], ...] = ()
    registries: Mapping[str, RegistrySettings] = {}

    @field_validator("build_user")
    @classmethod
    def _account(cls, value: str) -> str:
        if os.geteuid() == 0:
            identity_of(value)
        return value

    @field_validator("registries")
    @classmethod
    def _hosts(cls, value: Mapping[str, RegistrySettings]) -> Mapping[str, RegistrySettings]:
        for host in value:
            try:
                known = source_of(f"{host}/x", plain=True) == f"docker://{host}/x:latest"
            except InvalidArgument:
                known = False
            if not known and host != "docker.io":
                raise ValueError(f"{host[:80]!r} is no registry as names have it: host or host:port, in lower case")
        return value

    @model_validator(mode="after")
    def _keys(self) -> Self:
        if self.signatures != "off" and not (self.signature_keys or self.cosign_key):
            raise ValueError("signatures: needs keys to compare with: set signature_keys, or cosign_key, or both")
        return self

    def of_registry(self, registry: str) -> RegistrySettings:
        return self.registries.get(registry, RegistrySettings())


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An account of the node that is not our own."""

    name: str
    user_id: int
    group_id: int


def identity_of(user: str) -> Identity:
    """Raises ValueError if it is nobody who may build, with what is wrong."""
    try:
        account = pwd.getpwnam(user)
    except KeyError as error:
        raise ValueError(f"there is no account {user[:80]!r} on this node") from error
    if account.pw_uid == 0:
        raise ValueError("must not be root: builders unpack what a registry sends")
    return Identity(name=account.pw_name, user_id=account.pw_uid, group_id=account.pw_gid)


def read_settings(section: Mapping[str, object]) -> Settings:
    """Raises InvalidArgument naming each setting that is wrong and why."""
    try:
        return Settings.model_validate(dict(section))
    except ValidationError as error:
        sentences = (
            f"{'.'.join((SECTION, *map(str, e['loc'])))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise InvalidArgument("; ".join(sentences)) from error


def check_settings(section: Mapping[str, object], _: object) -> object:
    """The plug-in: a SettingsCheck."""
    return read_settings(section)
