"""``kill -9`` of the proxy while slurmrestd is asked for a job: there is one, and it is found again."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import read_log
from testbed import Testbed
from testbed.cluster import REST_PORT
from testbed.rest import rest_settings
from testbed.rest_gate import Gate

from main_job.conftest import jobs_of
from main_job.test_kill import start_as_the_kubelet_does

pytestmark = pytest.mark.testbed


@pytest.fixture
async def gate(bed: Testbed) -> AsyncIterator[Gate]:
    async with Gate(bed.cluster.host, REST_PORT).serving() as gate:
        yield gate


@pytest.fixture
async def proxy(bed: Testbed, gate: Gate, tmp_path: Path) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    slurm = rest_settings(bed, tmp_path) | {"rest_url": f"http://127.0.0.1:{gate.port}"}
    endpoints = {"default": str(bed.node.socket)}
    config.write_text(json.dumps({"remote_runtime_endpoints": endpoints, "slurm": slurm}))
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


async def test_killed_before_the_answer_to_a_submit(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, gate: Gate, image: str
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("job", handler="multicri")
    container = await kubelet.create_container(pod, image, command=["sh", "-c", "echo once; exit 5"])
    gate.fault = "hold answer"
    starting = asyncio.ensure_future(kubelet.start(container))
    await gate.reached.wait()
    proxy.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await starting
    gate.fault = ""
    gate.opened.set()
    await proxy.start()
    await start_as_the_kubelet_does(kubelet, container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 5
    await kubelet.wait_for_log(pod, "once\n")
    assert read_log(pod, stream="stdout") == ["once\n"]
    assert len(jobs_of(bed, container)) == 1
    await kubelet.remove_sandbox(pod.sandbox_id)
    assert not list(bed.cluster.user("alice").home.glob(f"multi-cri/{pod.sandbox_id}*"))
