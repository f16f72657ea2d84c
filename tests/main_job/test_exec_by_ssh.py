"""Commands in Slurm pods where steps cannot overlap: the login host's own ssh leads to the job's node."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import grpc
import grpc.aio
import pytest
from faults.breaking import kill_sessions
from kubelet import Kubelet, Proxy
from streaming.spdy_client import Exec
from testbed import Testbed

from main_job.conftest import CONFIG
from main_job.test_exec import IDLE, Container, attach_url, begun, ready, steps_of, until_none_is_left

pytestmark = pytest.mark.testbed


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    text = CONFIG.format(containerd=bed.node.socket, known_hosts=bed.cluster.known_hosts)
    config.write_text(f"{text}  exec_by: ssh\nstream_port: 0\n")
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.fixture
def ssh_between_hosts(bed: Testbed) -> Iterator[None]:
    """alice gets from the login host to the others with a key of her own."""
    script = "umask 077; cat > .ssh/id_ed25519; printf 'StrictHostKeyChecking accept-new\\n' > .ssh/config"
    key = bed.cluster.user("alice").key.read_text()
    bed.cluster.run("login", ["sh", "-c", f"cd /home/alice && {script}"], user="alice", stdin=key, check=True)
    yield
    bed.cluster.run("login", ["sh", "-c", "cd /home/alice/.ssh && rm -f id_ed25519 config known_hosts"], user="alice")


async def test_commands_and_stdin_go_over_ssh_and_cost_no_step(
    bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str], ssh_between_hosts: None
) -> None:
    command = ["sh", "-c", 'cd /; echo begun; while read -r line; do echo "read $line"; done']
    container = await begun(kubelet, image, dict(account), command=command, stdin=True)
    said = await container.sync("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (said.stdout, said.stderr, said.exit_code) == (b"out\n", b"err\n", 3)
    client = await Exec.start(await attach_url(container), "stdin", "stdout")
    await client.type(b"one\n", fin=True)
    await client.until_said(b"read one")
    await client.close()
    exec_ = await Exec.start(await container.url("sh", "-c", "echo begun; sleep 4447"), "stdout", "stderr")
    await exec_.until_said(b"begun")
    kill_sessions(bed, "alice")
    assert (await exec_.status())["status"] == "Failure"
    await exec_.close()
    await until_none_is_left(await ready(container), "sleep 4447")
    assert steps_of(bed, "alice") == []


async def test_a_node_that_does_not_let_the_account_in_is_told(
    kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("main", handler="multicri")
    container_id = await kubelet.create_container(pod, image, command=IDLE, env=dict(account))
    await kubelet.start(container_id)
    await kubelet.wait_for_log(pod, "begun\n")
    refused = "Host key verification failed|Permission denied"
    async with asyncio.timeout(60):
        while True:
            try:
                await Container(kubelet, pod, container_id).sync("true")
            except grpc.aio.AioRpcError as error:
                if re.search(refused, error.details() or ""):
                    return
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
                await asyncio.sleep(0.1)
