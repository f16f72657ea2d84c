"""What a pod asks of its network, by where its containers run."""

import pytest

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.network.asked import HostPort, asked_of

DNS = cri.PodSandboxConfig(
    port_mappings=[
        cri.PortMapping(container_port=53, host_port=1053, protocol=cri.UDP),
        cri.PortMapping(container_port=53, host_port=1053, protocol=cri.TCP),
    ]
)


def test_containers_in_the_namespace_have_ports_of_any_protocol_and_nothing_leads_them_elsewhere() -> None:
    asked = asked_of(DNS, joins=True)
    assert asked.ports == ()
    udp, tcp = asked.host_ports
    assert udp == HostPort(address="", port=1053, container_port=53, protocol="udp")
    assert not udp.meets(tcp)
    assert udp.meets(udp)


def test_containers_elsewhere_have_tcp_alone() -> None:
    with pytest.raises(InvalidArgument, match="only TCP leads to a job"):
        asked_of(DNS)
