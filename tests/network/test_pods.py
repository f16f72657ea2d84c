"""Pods with networks of their own, made by real CNI plug-ins, and reached as others reach them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from network.conftest import NODE_IP, NetworkClient, NetworkNode, fetched, is_open, job_server, until_open


@pytest.fixture
async def web_port() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nfrom the job")

    async with job_server(serve) as port:
        yield port


async def test_a_neighbour_fetches_a_page_of_a_job_from_the_pods_ip(
    network_node: NetworkNode, network_client: NetworkClient, neighbour: str, web_port: int
) -> None:
    sandbox_id = await network_client.run_pod(network_node.pod_config(ports=(web_port,)))
    ip = await network_client.pod_ip(sandbox_id)
    assert network_node.leases() == [ip]
    assert not await is_open(ip, web_port)  # no job yet
    await network_client.running_container(sandbox_id, network_node.cluster)
    await until_open(ip, web_port)
    assert await fetched(f"http://{ip}:{web_port}/", "ip", "netns", "exec", neighbour) == "from the job"


async def test_a_port_of_the_node_leads_to_the_job(
    network_node: NetworkNode, network_client: NetworkClient, neighbour: str, web_port: int
) -> None:
    sandbox_id = await network_client.run_pod(network_node.pod_config(host_ports=((8088, web_port),)))
    await network_client.running_container(sandbox_id, network_node.cluster)
    await until_open(await network_client.pod_ip(sandbox_id), web_port)
    assert await fetched(f"http://{NODE_IP}:8088/", "ip", "netns", "exec", neighbour) == "from the job"
    await network_client.stop_sandbox(sandbox_id)
    assert "from the job" not in await fetched(f"http://{NODE_IP}:8088/", "ip", "netns", "exec", neighbour)


async def test_two_pods_have_the_same_port(
    network_node: NetworkNode, network_client: NetworkClient, web_port: int
) -> None:
    ips = []
    for name in ("one", "two"):
        sandbox_id = await network_client.run_pod(network_node.pod_config(name, ports=(web_port,)))
        await network_client.running_container(sandbox_id, network_node.cluster)
        ips.append(await network_client.pod_ip(sandbox_id))
    assert ips[0] != ips[1]
    for ip in ips:
        await until_open(ip, web_port)
        assert await fetched(f"http://{ip}:{web_port}/") == "from the job"


async def _silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes everybody, and has nothing to say."""


async def test_a_port_that_nobody_serves_any_more_is_closed_and_opens_again(
    network_node: NetworkNode, network_client: NetworkClient
) -> None:
    async with job_server(_silent) as port:
        sandbox_id = await network_client.run_pod(network_node.pod_config(ports=(port,)))
        await network_client.running_container(sandbox_id, network_node.cluster)
        ip = await network_client.pod_ip(sandbox_id)
        await until_open(ip, port)
    assert await is_open(ip, port)  # one that is accepted before it is known, and reset
    async with asyncio.timeout(60):
        while await is_open(ip, port):
            await asyncio.sleep(0.01)
    async with job_server(_silent, port):
        await until_open(ip, port)


async def test_a_connection_that_cannot_be_passed_on_is_reset(
    network_node: NetworkNode, network_client: NetworkClient
) -> None:
    async with job_server(_silent) as port:
        sandbox_id = await network_client.run_pod(network_node.pod_config(ports=(port,)))
        await network_client.running_container(sandbox_id, network_node.cluster)
        ip = await network_client.pod_ip(sandbox_id)
        await until_open(ip, port)
    reader, writer = await asyncio.open_connection(ip, port)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_many_megabytes_and_a_half_close_pass_in_both_directions(
    network_node: NetworkNode, network_client: NetworkClient
) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"the end")

    async with job_server(echo) as port:
        sandbox_id = await network_client.run_pod(network_node.pod_config(ports=(port,)))
        await network_client.running_container(sandbox_id, network_node.cluster)
        ip = await network_client.pod_ip(sandbox_id)
        await until_open(ip, port)
        reader, writer = await asyncio.open_connection(ip, port)

        async def send() -> None:
            for _ in range(200):
                writer.write(bytes(100_000))
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        assert await reader.read(-1) == bytes(20_000_000) + b"the end"
        await sending
        writer.close()


async def test_a_pod_with_the_nodes_network_gets_none(network_node: NetworkNode, network_client: NetworkClient) -> None:
    assert await network_client.pod_ip(await network_client.sandbox()) == "192.0.2.7"
    assert network_node.left() == []


async def test_a_stopped_sandbox_has_no_ip_and_leaves_nothing(
    network_node: NetworkNode, network_client: NetworkClient, web_port: int
) -> None:
    sandbox_id = await network_client.run_pod(network_node.pod_config(ports=(web_port,)))
    await network_client.running_container(sandbox_id, network_node.cluster)
    ip = await network_client.pod_ip(sandbox_id)
    await until_open(ip, web_port)
    _, writer = await asyncio.open_connection(ip, web_port)  # it is being used
    await network_client.stop_sandbox(sandbox_id)
    assert network_node.left() == []
    assert await network_client.pod_ip(sandbox_id) == ""
    await network_client.stop_sandbox(sandbox_id)
    await network_client.remove_sandbox(sandbox_id)
    writer.close()


async def test_fifty_sandboxes_come_and_go_and_leave_nothing(
    network_node: NetworkNode, network_client: NetworkClient
) -> None:
    async def one(number: int) -> str:
        config = network_node.pod_config(f"pod-{number}", host_ports=((9000 + number, 80),))
        sandbox_id = await network_client.run_pod(config)
        ip = await network_client.pod_ip(sandbox_id)
        await network_client.remove_sandbox(sandbox_id)
        return ip

    assert all(await asyncio.gather(*map(one, range(50))))
    assert network_node.left() == []


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (cri.PortMapping(container_port=70000), r"port_mappings\[0\].container_port: 70000 is no port"),
        (cri.PortMapping(container_port=53, host_port=53, protocol=cri.UDP), "only TCP leads to a job"),
        (cri.PortMapping(container_port=80, host_port=80, host_ip="nowhere"), r"host_ip: 'nowhere' is no IP"),
    ],
)
async def test_what_a_pod_may_not_ask_is_refused_by_name(
    network_node: NetworkNode, network_client: NetworkClient, mapping: cri.PortMapping, message: str
) -> None:
    config = network_node.pod_config()
    config.port_mappings.append(mapping)
    with pytest.raises(InvalidArgument, match=message):
        await network_client.run_pod(config)
    assert network_node.left() == []


async def test_a_name_that_would_be_more_to_a_plug_in_is_refused(
    network_node: NetworkNode, network_client: NetworkClient
) -> None:
    with pytest.raises(InvalidArgument, match=r"config.metadata.name: 'a;IgnoreUnknown=0' has characters"):
        await network_client.run_pod(network_node.pod_config("a;IgnoreUnknown=0"))


async def test_a_port_of_the_node_that_is_taken_is_refused_and_free_after_its_pod(
    network_node: NetworkNode, network_client: NetworkClient, web_port: int
) -> None:
    first = await network_client.run_pod(network_node.pod_config("one", host_ports=((8088, 80),)))
    with pytest.raises(FailedPrecondition, match=f"hostPort 8088 is that of sandbox {first}"):
        await network_client.run_pod(network_node.pod_config("two", host_ports=((8088, 80),)))
    with pytest.raises(FailedPrecondition, match=f"hostPort {web_port} cannot be had: Address already in use"):
        await network_client.run_pod(network_node.pod_config("two", host_ports=((web_port, 80),)))
    await network_client.remove_sandbox(first)
    await network_client.run_pod(network_node.pod_config("two", host_ports=((8088, 80),)))
    assert len(network_node.leases()) == 1


async def test_ports_may_be_declared_by_an_annotation(
    network_node: NetworkNode, network_client: NetworkClient, web_port: int
) -> None:
    config = network_node.pod_config()
    config.annotations["multicri.io/ports"] = f"{web_port}, 1"
    sandbox_id = await network_client.run_pod(config)
    await network_client.running_container(sandbox_id, network_node.cluster)
    await until_open(await network_client.pod_ip(sandbox_id), web_port)
    config = network_node.pod_config("other")
    config.annotations["multicri.io/ports"] = "http"
    with pytest.raises(InvalidArgument, match=r"annotation multicri\.io/ports: 'http' is no port"):
        await network_client.run_pod(config)
