"""What a pod asks of its network: ports, ports of the node, and how fast it may be. Pure."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.cri.v1 import runtime_pb2 as cri

PORTS = "multicri.io/ports"
"""Annotation: more TCP ports on which the pod's containers listen, as ``8080,9090``. Those that a container declares
come with the sandbox."""

_BANDWIDTH = {"kubernetes.io/ingress-bandwidth": "ingress", "kubernetes.io/egress-bandwidth": "egress"}
_RATE = re.compile(r"([0-9]{1,15})(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_UNITS = {"": 1} | {unit: 1000**power for power, unit in enumerate("kMGTP", 1)}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", 1)}
_SLOWEST, _FASTEST = 1000, 10**15
_BURST_BITS = (1 << 31) - 1
_MOST_PORTS = 64
_LARGEST_PORT = (1 << 16) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPort:
    """A port of the node that leads to one of the pod. address: of the node; empty for all. protocol: as CNI has it."""

    address: str
    port: int
    container_port: int
    protocol: str = "tcp"

    def meets(self, other: "HostPort") -> bool:
        """Whether both want the same."""
        is_same = (self.port, self.protocol) == (other.port, other.protocol)
        return is_same and (self.address == other.address or not self.address or not other.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """ports: to be led to the pod, TCP. bandwidth: as CNI's capability has it, in bits and bits a second."""

    ports: tuple[int, ...]
    host_ports: tuple[HostPort, ...]
    bandwidth: Mapping[str, int]


def asked_of(config: cri.PodSandboxConfig, *, joins: bool = False) -> Asked:
    """joins: containers run in the namespace, with ports of any protocol. Raises InvalidArgument, naming the field.

    The kubelet puts every port that a container declares into `port_mappings`, with 0 for no port of the node.
    """
    ports: dict[int, None] = dict.fromkeys(_annotated(config.annotations.get(PORTS, "")))
    host_ports = []
    for index, mapping in enumerate(config.port_mappings):
        place = f"config.port_mappings[{index}]"
        if mapping.protocol != cri.TCP and not joins:
            if mapping.host_port:
                raise InvalidArgument(
                    f"{place}: only TCP leads to a job, and this is {cri.Protocol.Name(mapping.protocol)}"
                )
            continue
        ports[_port(f"{place}.container_port", mapping.container_port)] = None
        if mapping.host_port:
            host_ports.append(
                HostPort(
                    address=_address(f"{place}.host_ip", mapping.host_ip),
                    port=_port(f"{place}.host_port", mapping.host_port),
                    container_port=mapping.container_port,
                    protocol=cri.Protocol.Name(mapping.protocol).lower(),
                )
            )
    if len(ports) > _MOST_PORTS and not joins:
        raise InvalidArgument(f"config.port_mappings and {PORTS}: {len(ports)} ports, and a pod may have {_MOST_PORTS}")
    led = () if joins else tuple(ports)
    return Asked(ports=led, host_ports=tuple(host_ports), bandwidth=_bandwidth(config.annotations))


def _annotated(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    for word in words:
        if not word.isascii() or not word.isdecimal() or len(word) > len(str(_LARGEST_PORT)):
            raise InvalidArgument(f"annotation {PORTS}: {word[:32]!r} is no port; write 8080,9090")
    return [_port(f"annotation {PORTS}", int(word)) for word in words]


def _port(field: str, port: int) -> int:
    if not 0 < port <= _LARGEST_PORT:
        raise InvalidArgument(f"{field}: {port} is no port; give 1 to {_LARGEST_PORT}")
    return port


def _address(field: str, text: str) -> str:
    """Empty if it stands for every address."""
    try:
        address = ipaddress.ip_address(text) if text else None
    except ValueError:
        raise InvalidArgument(f"{field}: {text[:64]!r} is no IP address") from None
    return "" if address is None or address.is_unspecified else str(address)


def _bandwidth(annotations: Mapping[str, str]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for name, direction in _BANDWIDTH.items():
        if name in annotations:
            match = _RATE.fullmatch(annotations[name])
            rate = int(match[1]) * _UNITS[match[2] or ""] if match else 0
            if not _SLOWEST <= rate <= _FASTEST:
                raise InvalidArgument(
                    f"annotation {name}: {annotations[name][:32]!r} is no rate from 1k to 1P; write 10M for 10 Mbit/s"
                )
            found |= {f"{direction}Rate": rate, f"{direction}Burst": _BURST_BITS}
    return found
