"""Forms that both an admin and a pod write: user names, hosts."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field


def matching(pattern: str, wanted: str) -> AfterValidator:
    """All of the text must match. wanted: what to say that it must be."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"must be {wanted}")
        return value

    return AfterValidator(check)


def _host(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?", value, re.ASCII):
        return value.lower()
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("must be a host name or an IP address") from None


Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
UserName = Annotated[str, matching(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127}\$?", "a user name: A-Z a-z 0-9 _ . @ + -")]
