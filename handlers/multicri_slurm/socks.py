"""What a SOCKS client asks for, and the answer to it: version 5, with a user name and a password, CONNECT alone.

Source: RFC 1928, RFC 1929.
"""

import hmac
import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

VERSION, PASSWORD_VERSION = 5, 1
BY_PASSWORD, BY_NOTHING_WE_HAVE = 2, 0xFF
CONNECT = 1
IPV4, NAME, IPV6 = 1, 3, 4


class Answer(IntEnum):
    """RFC 1928, section 6."""

    CONNECTED = 0
    FAILED = 1
    FORBIDDEN = 2
    UNREACHABLE = 4
    REFUSED = 5
    NOT_CONNECT = 7
    NO_SUCH_ADDRESS = 8


class Stream(Protocol):
    """A client's."""

    async def exactly(self, size: int) -> bytes:
        """Raises EOFError if there are less."""
        ...

    async def write(self, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """host: an address or a name."""

    host: str
    port: int


async def asked(client: Stream, user: str, password: str) -> Target | None:
    """Where a client wants to be connected; None if it was refused, and told so. Raises EOFError if it leaves."""
    version, methods = await client.exactly(2)
    offered = await client.exactly(methods)
    if version != VERSION or BY_PASSWORD not in offered:
        await client.write(bytes([VERSION, BY_NOTHING_WE_HAVE]))
        return None
    await client.write(bytes([VERSION, BY_PASSWORD]))
    version, length = await client.exactly(2)
    named = await client.exactly(length)
    proved = await client.exactly((await client.exactly(1))[0])
    right = hmac.compare_digest(named + b":" + proved, f"{user}:{password}".encode())
    await client.write(bytes([PASSWORD_VERSION, 0 if right and version == PASSWORD_VERSION else 1]))
    if not right or version != PASSWORD_VERSION:
        return None
    version, command, _, kind = await client.exactly(4)
    host = await _host(client, kind)
    if version != VERSION or host is None:
        await answer(client, Answer.NO_SUCH_ADDRESS)
        return None
    port = int.from_bytes(await client.exactly(2), "big")
    if command != CONNECT:
        await answer(client, Answer.NOT_CONNECT)
        return None
    return Target(host, port)


async def _host(client: Stream, kind: int) -> str | None:
    if kind == IPV4:
        return str(ipaddress.IPv4Address(await client.exactly(4)))
    if kind == IPV6:
        return str(ipaddress.IPv6Address(await client.exactly(16)))
    if kind == NAME:
        name = await client.exactly((await client.exactly(1))[0])
        return name.decode("ascii", "replace")
    return None


async def answer(client: Stream, code: Answer) -> None:
    """The last word before the connection's own bytes; of ours, no address is told."""
    await client.write(bytes([VERSION, code, 0, IPV4, 0, 0, 0, 0, 0, 0]))
