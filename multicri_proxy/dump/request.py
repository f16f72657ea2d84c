"""What a client of the admin socket asks to be dumped."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multicri_proxy.api.errors import InvalidArgument

_Text = Field(max_length=4096)


class DumpRequest(BaseModel):
    """What a client asks for. pods, containers: names or ids; empty: all."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    command: str = "dump"
    rules: str = _Text
    pods: list[str] = Field(default=[], max_length=100)
    containers: list[str] = Field(default=[], max_length=100)
    redact: bool = True
    metadata: bool = False


def parsed(fields: Mapping[str, Any]) -> DumpRequest:
    """Raises InvalidArgument, naming the field."""
    try:
        return DumpRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(f"dump: {where}: {first['msg']}") from error
