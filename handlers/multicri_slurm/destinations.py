"""Where jobs may be connected to from the node: addresses that an admin has listed, and ports of them."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from pydantic import BaseModel, ConfigDict

from multicri_proxy.api.errors import NotFound, PermissionDenied
from multicri_slurm.fields import Port

RESOLVE_TIMEOUT_S = 10.0


class Destination(BaseModel):
    """A network, and the ports there that may be reached; none: all."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    to: IPv4Network | IPv6Network
    ports: tuple[Port, ...] = ()

    def allows(self, address: IPv4Address | IPv6Address, port: int) -> bool:
        return address in self.to and (not self.ports or port in self.ports)


async def allowed_address(destinations: Sequence[Destination], host: str, port: int) -> str:
    """The first address of a host that may be reached, which alone is to be connected to.

    host: an address, or a name for the node's resolver, of which the answer is not asked for twice.
    Raises PermissionDenied if none may, NotFound if it has none.
    """
    addresses = [_plain(address) for address in await _addresses(host)]
    for address in addresses:
        if any(destination.allows(address, port) for destination in destinations):
            return str(address)
    raise PermissionDenied(f"{host} port {port}: not among the destinations that way_back allows")


async def _addresses(host: str) -> Sequence[IPv4Address | IPv6Address]:
    try:
        return [ip_address(host)]
    except ValueError:
        pass
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise NotFound(f"{host}: no address is known here: {error}") from error
    return [ip_address(place[0]) for *_, place in found]


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An IPv4 address in an IPv6 one's clothes is judged as what it is."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
