"""The proxy ends or is killed, and begins again."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from multicri_proxy.api.adapter import OutputStream, Phase
from multicri_proxy.api.errors import NotFound, Unavailable
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.ledger import Ledger
from runtime.doubles import Client, Node
from runtime.test_logs import read_as_the_kubelet_does


async def test_everything_is_the_same_after_a_restart(node: Node) -> None:
    async with node.running() as runtime:
        client = Client(node, runtime)
        ready, stopped = await client.sandbox("ready"), await client.sandbox("stopped")
        await client.container(ready, node.container_config("created"))
        await client.started(ready, "running")
        exited = await client.started(ready, "exited")
        await client.stop(exited)
        await client.started(stopped)
        await client.stop_sandbox(stopped)
        before = await _everything(client)
    async with node.running() as runtime:
        after = await _everything(Client(node, runtime))
        assert after == before
        assert len(after) == 7
        assert runtime.owns_sandbox(ready)
        assert runtime.owns_container(exited)


async def test_a_kubelet_that_asks_again_after_a_restart_gets_the_same_ids(node: Node) -> None:
    async with node.running() as runtime:
        client = Client(node, runtime)
        sandbox_id = await client.sandbox()
        container_id = await client.container(sandbox_id)
    async with node.running() as runtime:
        client = Client(node, runtime)
        assert await client.sandbox() == sandbox_id
        assert await client.container(sandbox_id) == container_id


async def test_an_exit_while_no_proxy_ran_is_told(node: Node) -> None:
    async with node.running() as runtime:
        client = Client(node, runtime)
        container_id = await client.started(await client.sandbox())
    await node.cluster.write(container_id, OutputStream.STDOUT, b"the last words")
    await node.cluster.report(container_id, Phase.EXITED, exit_code=4)
    async with node.running() as runtime:
        assert (await Client(node, runtime).until_exited(container_id)).exit_code == 4
        assert read_as_the_kubelet_does(node.log())[b"stdout"] == b"the last words"


async def test_an_exit_is_told_after_the_last_output_is_in_the_log(node: Node) -> None:
    async with node.running() as runtime:
        client = Client(node, runtime)
        container_id = await client.started(await client.sandbox())
        for number in range(20):
            await node.cluster.write(container_id, OutputStream.STDERR, b"line %d\n" % number)
        await node.cluster.report(container_id, Phase.EXITED)
        await client.until_exited(container_id)
        wanted = b"".join(b"line %d\n" % number for number in range(20))
        assert read_as_the_kubelet_does(node.log())[b"stderr"] == wanted


async def test_output_that_cannot_be_read_delays_an_exit_only_so_long(node: Node) -> None:
    node.drain_timeout_s = 0.01
    async with node.running() as runtime:
        client = Client(node, runtime)
        container_id = await client.container(await client.sandbox())
        node.cluster.gates["output"] = asyncio.Event()
        await client.start(container_id)
        await node.cluster.report(container_id, Phase.EXITED)
        assert (await client.until_exited(container_id)).exit_code == 0


async def test_a_log_goes_on_where_it_was_after_a_restart(node: Node) -> None:
    async with node.running() as runtime:
        client = Client(node, runtime)
        container_id = await client.started(await client.sandbox())
        await node.cluster.write(container_id, OutputStream.STDOUT, b"one\ntwo\nth")
    await node.cluster.write(container_id, OutputStream.STDOUT, b"ree\n")
    async with node.running() as runtime:
        client = Client(node, runtime)
        await client.stop(container_id)
    assert read_as_the_kubelet_does(node.log())[b"stdout"] == b"one\ntwo\nthree\n"
    async with node.running():  # everything was read: nothing is followed again
        pass
    assert read_as_the_kubelet_does(node.log())[b"stdout"] == b"one\ntwo\nthree\n"


async def test_the_adapter_is_told_what_is_known_and_cleans_up_the_rest(node: Node) -> None:
    async with node.running() as runtime:
        client = Client(node, runtime)
        sandbox_id = await client.sandbox()
        kept = await client.container(sandbox_id, node.container_config("kept"))
        lost = await client.container(sandbox_id, node.container_config("lost"))
    await _forget(node, "runtime/containers", lost)  # as if killed between the adapter's creation and the record
    async with node.running() as runtime:
        await node.cluster.called("adopt", 2)
        await Client(node, runtime).start(kept)  # waits for adoption
        assert list(node.cluster.jobs) == [kept]


async def test_a_start_that_was_not_recorded_is_found_out(node: Node) -> None:
    async with node.running() as runtime:
        client = Client(node, runtime)
        container_id = await client.container(await client.sandbox())
    node.cluster.jobs[next(iter(node.cluster.jobs))].starts = 1  # killed between sbatch and the record
    await node.cluster.report(container_id, Phase.RUNNING)
    async with node.running() as runtime:
        client = Client(node, runtime)
        await client.start(container_id)
        assert (await client.status(container_id)).state == cri.CONTAINER_RUNNING
    assert next(iter(node.cluster.jobs.values())).starts == 1


async def test_containers_and_logs_of_a_removal_that_was_cut_off_are_forgotten(node: Node) -> None:
    async with node.running() as runtime:
        client = Client(node, runtime)
        sandbox_id = await client.sandbox()
        container_id = await client.started(sandbox_id)
    await _forget(node, "runtime/sandboxes", sandbox_id)
    async with node.running() as runtime:
        with pytest.raises(NotFound):
            await Client(node, runtime).status(container_id)
    async with Ledger.open(node.directory / "state" / "ledger.sqlite") as ledger:
        assert await ledger.space("runtime/containers").items() == []
        assert await ledger.space("runtime/log-positions").items() == []


async def test_an_adapter_that_cannot_take_up_its_work_is_asked_again(node: Node) -> None:
    node.cluster.failures["adopt"] = [Unavailable("not yet"), RuntimeError("a defect")]
    async with node.running() as runtime:
        client = Client(node, runtime)
        await client.started(await client.sandbox())
    assert [name for name, _ in node.cluster.calls].count("adopt") == 3


async def test_a_watch_that_breaks_is_begun_again(node: Node) -> None:
    node.cluster.failures["watch"] = [Unavailable("not yet"), RuntimeError("a defect")]
    async with node.running() as runtime:
        client = Client(node, runtime)
        container_id = await client.started(await client.sandbox())
        await node.cluster.report(container_id, Phase.EXITED)
        await client.until_exited(container_id)


async def test_reads_are_answered_while_the_adapter_is_silent(node: Node) -> None:
    async with node.running() as runtime:
        await Client(node, runtime).sandbox()
    node.cluster.gates["adopt"] = asyncio.Event()
    async with node.running() as runtime:
        client = Client(node, runtime)
        assert len(await client.sandboxes()) == 1
        await client.sandbox("another")  # a sandbox is a record, and needs no adapter


LIFE = """
import asyncio, sys
from pathlib import Path
from runtime.doubles import Client, Node

async def main():
    node = Node(Path(sys.argv[1]))
    async with node.running() as runtime:
        client = Client(node, runtime)
        number = 0
        while True:
            sandbox_id = await client.sandbox(f"pod-{number}")
            print("sandbox", sandbox_id, flush=True)
            container_id = await client.container(sandbox_id)
            print("created", container_id, flush=True)
            await client.start(container_id)
            print("running", container_id, flush=True)
            number += 1

asyncio.run(main())
"""


async def test_what_was_answered_is_there_after_kill_9(node: Node, tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", LIFE, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert process.stdout is not None
    printed = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    printed += [line for line in process.stdout.readlines() if line.endswith(b"\n")]
    process.wait()
    process.stdout.close()
    async with node.running() as runtime:
        client = Client(node, runtime)
        for line in printed:
            kind, object_id = line.decode().split()
            if kind == "sandbox":
                assert (await client.sandbox_status(object_id)).state == cri.SANDBOX_READY
            elif kind == "running":
                assert (await client.status(object_id)).state == cri.CONTAINER_RUNNING
            else:
                await client.status(object_id)


async def _everything(client: Client) -> list[str]:
    containers = [str(await client.status(one)) for one in await client.containers()]
    return (
        containers
        + [str(await client.sandbox_status(one)) for one in await client.sandboxes()]
        + [str(len(await client.containers()))]
    )


async def _forget(node: Node, space: str, key: str) -> None:
    async with Ledger.open(node.directory / "state" / "ledger.sqlite") as ledger:
        await ledger.space(space).delete(key)
