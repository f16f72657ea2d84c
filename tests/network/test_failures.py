"""What is left when plug-ins fail or hang, processes are killed, and the machine boots."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from multicri_proxy.api.errors import FailedPrecondition, Unavailable
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.ledger import Ledger
from multicri_proxy.network.attachments import attachment_from_row, attachment_row
from network.conftest import PLUGINS, NetworkClient, NetworkNode, run


def put_plugin(node: NetworkNode, name: str, script: str) -> None:
    """A plug-in at the chain's end, beside the real ones."""
    node.bin_dir = node.directory / "bin"
    shutil.copytree(PLUGINS, node.bin_dir, copy_function=lambda source, to: Path(to).symlink_to(source))
    (node.bin_dir / name).write_text(f"#!/bin/sh\n{script}\n")
    (node.bin_dir / name).chmod(0o755)
    node.plugins.append({"type": name})
    node.write_conf()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_without_a_configuration_pods_wait_and_status_says_why(network_node: NetworkNode) -> None:
    shutil.rmtree(network_node.conf)
    async with network_node.serving() as client:
        with pytest.raises(Unavailable, match=r"network_conf_dir: .* cannot be read: No such file"):
            await client.run_pod(network_node.pod_config())
        network_node.conf.mkdir()
        with pytest.raises(Unavailable, match="no pod network is installed"):
            await client.run_pod(network_node.pod_config())
        conditions = (await client.runtime.status(cri.StatusRequest())).status.conditions
        assert [(one.type, one.status, one.reason) for one in conditions] == [
            ("RuntimeReady", True, ""),
            ("NetworkReady", False, "NetworkPluginNotReady"),
        ]
        network_node.write_conf()
        await client.run_pod(network_node.pod_config())
        assert all(one.status for one in (await client.runtime.status(cri.StatusRequest())).status.conditions)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ("{", "is no CNI configuration"),
        ('{"cniVersion": "0.1.0"}', "cniVersion: '0.1.0' is not among"),
        ('{"cniVersion": "1.0.0"}', "name: is missing"),
        ('{"cniVersion": "1.0.0", "name": "n", "plugins": []}', "plugins: must be a list"),
        ('{"cniVersion": "1.0.0", "name": "n", "type": "../sh"}', r"plugins\[0\].type: '../sh' is no name"),
    ],
)
async def test_a_wrong_configuration_is_refused_with_its_file_and_field(
    network_node: NetworkNode, network_client: NetworkClient, conf: str, message: str
) -> None:
    (network_node.conf / "05-wrong.conf").write_text(conf)
    with pytest.raises(FailedPrecondition, match=f"05-wrong.conf .*{message}"):
        await network_client.run_pod(network_node.pod_config())


async def test_a_plug_in_that_fails_is_quoted_and_nothing_is_left(network_node: NetworkNode) -> None:
    answer = json.dumps({"cniVersion": "1.0.0", "code": 11, "msg": "no room", "details": "in the tables"})
    put_plugin(network_node, "failing", f"[ $CNI_COMMAND = DEL ] || {{ echo '{answer}'; exit 1; }}")
    async with network_node.serving() as client:
        with pytest.raises(Unavailable, match=r"CNI plug-in failing failed \(ADD\): no room: in the tables"):
            await client.run_pod(network_node.pod_config())
        assert network_node.left() == []


async def test_a_plug_in_that_is_not_there_is_named_and_nothing_is_left(network_node: NetworkNode) -> None:
    network_node.bin_dir = network_node.directory / "empty"
    async with network_node.serving() as client:
        with pytest.raises(Unavailable, match="/empty/bridge cannot be started: No such file"):
            await client.run_pod(network_node.pod_config())
        network_node.bin_dir.symlink_to(PLUGINS)


async def test_a_plug_in_that_hangs_is_killed_with_its_children_when_its_caller_leaves(
    network_node: NetworkNode,
) -> None:
    pids = network_node.directory / "pids"
    hang = f"[ $CNI_COMMAND = DEL ] || {{ sleep 1000 & echo $! > {pids}.new; mv {pids}.new {pids}; wait; }}"
    put_plugin(network_node, "hanging", hang)
    async with network_node.serving() as client:
        running = asyncio.create_task(client.run_pod(network_node.pod_config()))
        await until(pids.exists)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        child = Path("/proc", pids.read_text().strip())
        await until(lambda: not child.exists() or "Z" in (child / "stat").read_text().split()[2])
        await until(lambda: network_node.left() == [])


async def test_a_plug_in_that_says_too_much_is_killed(network_node: NetworkNode) -> None:
    put_plugin(network_node, "talking", "[ $CNI_COMMAND = DEL ] || exec yes")
    async with network_node.serving() as client:
        with pytest.raises(Exception, match="talking says too much, and was killed"):
            await client.run_pod(network_node.pod_config())
        assert network_node.left() == []


async def test_what_cannot_be_undone_now_is_told_and_undone_when_it_is_asked_again(
    network_node: NetworkNode,
) -> None:
    stuck = network_node.directory / "stuck"
    put_plugin(
        network_node, "stuck", f"[ $CNI_COMMAND = ADD ] && exec cat {network_node.directory}/ok; ! [ -e {stuck} ]"
    )
    (network_node.directory / "ok").write_text('{"cniVersion": "1.0.0", "ips": [{"address": "10.98.0.99/24"}]}')
    async with network_node.serving() as client:
        sandbox_id = await client.run_pod(network_node.pod_config())
        stuck.touch()
        with pytest.raises(Unavailable, match=r"CNI plug-in stuck failed \(DEL\): exit code 1"):
            await client.stop_sandbox(sandbox_id)
        stuck.unlink()
        await client.stop_sandbox(sandbox_id)
        assert network_node.left() == []


async def test_a_restart_keeps_addresses_and_opens_ports_again(network_node: NetworkNode) -> None:
    async with network_node.serving() as client:
        sandbox_id = await client.run_pod(network_node.pod_config(ports=(80,)))
        ip = await client.pod_ip(sandbox_id)
    async with network_node.serving() as client:
        assert await client.pod_ip(sandbox_id) == ip
        assert network_node.leases() == [ip]
        await client.remove_sandbox(sandbox_id)
        assert network_node.left() == []


async def test_a_network_is_undone_after_it_was_switched_off(network_node: NetworkNode) -> None:
    async with network_node.serving() as client:
        sandbox_id = await client.run_pod(network_node.pod_config())
    network_node.enabled = False
    async with network_node.serving() as client:
        assert await client.pod_ip(await client.run_pod(network_node.pod_config("other"))) == "192.0.2.7"
        await client.remove_sandbox(sandbox_id)
        assert network_node.left() == []


async def test_a_boot_of_the_machine_gives_a_running_pod_a_new_network(network_node: NetworkNode) -> None:
    async with network_node.serving() as client:
        sandbox_id = await client.run_pod(network_node.pod_config(ports=(80,)))
        await client.running_container(sandbox_id, network_node.cluster)
        before = await client.pod_ip(sandbox_id)
    (namespace,) = network_node.netns.iterdir()
    run(f"umount {namespace}")
    namespace.unlink()
    async with network_node.serving() as client:
        async with asyncio.timeout(60):
            while (after := await client.pod_ip(sandbox_id)) == before:
                await asyncio.sleep(0.01)
        assert network_node.leases() == [after]
        await client.remove_sandbox(sandbox_id)
        assert network_node.left() == []


async def test_what_a_killed_process_left_without_a_sandbox_is_undone_by_the_next(network_node: NetworkNode) -> None:
    """The ledger as a kill between ADD and the sandbox's record leaves it."""
    async with network_node.serving() as client:
        sandbox_id = await client.run_pod(network_node.pod_config(host_ports=((8088, 80),)))
        assert len(network_node.leases()) == 1
    async with Ledger.open(network_node.directory / "state" / "ledger.sqlite") as ledger:
        row = dict(await ledger.space("network").items())[sandbox_id]
        assert attachment_row(attachment_from_row(row)) == row
        await ledger.space("runtime/sandboxes").delete(sandbox_id)
    async with network_node.serving() as client:
        assert await client.sandboxes() == []
        await until(lambda: network_node.left() == [])
    async with Ledger.open(network_node.directory / "state" / "ledger.sqlite") as ledger:
        assert await ledger.space("network").items() == []


async def test_a_row_that_cannot_be_read_stops_the_start(network_node: NetworkNode) -> None:
    async with Ledger.open(network_node.directory / "state" / "ledger.sqlite") as ledger:
        await ledger.space("network").put("0" * 64, b"{}")
    with pytest.raises(FailedPrecondition, match="the ledger holds a network that this version cannot read"):
        async with network_node.serving():
            pass


async def test_plug_ins_are_told_of_the_pod_its_bandwidth_and_the_nodes_pod_cidr(network_node: NetworkNode) -> None:
    told = network_node.directory / "told"
    put_plugin(network_node, "telling", f"[ $CNI_COMMAND = DEL ] || {{ env > {told}.env; tee {told}; }}")
    network_node.plugins[-1]["capabilities"] = {"ipRanges": True, "bandwidth": True, "dns": True}
    network_node.write_conf()
    async with network_node.serving() as client:
        for cidr in ("10.98.7.0/24, 2001:db8::/64", "nonsense", ""):
            network = cri.NetworkConfig(pod_cidr=cidr)
            config = cri.RuntimeConfig(network_config=network)
            await client.runtime.update_runtime_config(cri.UpdateRuntimeConfigRequest(runtime_config=config))
        pod = network_node.pod_config()
        pod.annotations["kubernetes.io/ingress-bandwidth"] = "10M"
        with pytest.raises(FailedPrecondition, match="gave the pod no IP"):  # it answers with its configuration
            await client.run_pod(pod)
    conf = json.loads(told.read_text())
    assert conf["runtimeConfig"] == {
        "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 2**31 - 1},
        "ipRanges": [[{"subnet": "10.98.7.0/24"}], [{"subnet": "2001:db8::/64"}]],
    }
    assert conf["name"] == "test-net"
    assert conf["prevResult"]["ips"][0]["address"].startswith("10.98.0.")
    assert "capabilities" not in conf
    environment = (told.with_name("told.env")).read_text()
    assert "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod;" in environment
    async with network_node.serving() as client:  # told once, remembered
        with pytest.raises(FailedPrecondition, match="gave the pod no IP"):
            await client.run_pod(network_node.pod_config())
    assert json.loads(told.read_text())["runtimeConfig"]["ipRanges"][0] == [{"subnet": "10.98.7.0/24"}]
