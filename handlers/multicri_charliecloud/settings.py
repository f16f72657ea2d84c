"""What an admin decides: the ``charliecloud:`` section of the configuration."""

import os
import pwd
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.places import STATE_DIRECTORY

_SECTION = "charliecloud"


def _clean(path: Path) -> Path:
    """ch-run parts the two paths of a bind by a colon."""
    if not path.is_absolute() or ".." in path.parts or ":" in str(path):
        raise ValueError("must be an absolute path without '..' and ':'")
    return path


class Settings(BaseModel):
    """directory: of images and containers; it must have room for a copy of the image for each container.

    user: whom containers and image builds run as, if the daemon is root: nobody whom ch-run makes root in a container
    may be root on the node. policy: what becomes of a container that asks for what cannot be honoured.
    image_format: how images are kept; a SquashFS file takes less room, and is unpacked for each container.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: Annotated[Path, AfterValidator(_clean)] = STATE_DIRECTORY / "charliecloud"
    user: str = "nobody"
    policy: Literal["strict", "permissive"] = "strict"
    image_format: Literal["directory", "squashfs"] = "directory"
    build_timeout_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An account of the node that is not our own."""

    name: str
    user_id: int
    group_id: int


def read_settings(section: Mapping[str, object], handlers: Collection[str] = ()) -> Settings:
    """Raises InvalidArgument naming each setting that is wrong and why. handlers: all are ours."""
    try:
        settings = Settings.model_validate(section)
    except ValidationError as error:
        reasons = [f"{_SECTION}.{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise InvalidArgument("; ".join(reasons)) from error
    identity_of(settings)
    return settings


def identity_of(settings: Settings) -> Identity | None:
    """Who containers run as; None: as the daemon, which is not root. Raises InvalidArgument."""
    if os.geteuid() != 0:
        return None
    try:
        account = pwd.getpwnam(settings.user)
    except KeyError as error:
        raise InvalidArgument(f"{_SECTION}.user: there is no account {settings.user!r} on this node") from error
    if account.pw_uid == 0:
        raise InvalidArgument(f"{_SECTION}.user: must not be root: a container's root would be the node's")
    return Identity(name=account.pw_name, user_id=account.pw_uid, group_id=account.pw_gid)
