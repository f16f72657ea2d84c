"""What a real containerd said is recorded, and replayed to it with the same outcome."""

import asyncio
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet
from testbed import Testbed

from dump.doubles import until
from dump.test_attach import run
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.dumper import Dumper
from multicri_proxy.dump.redact import DEFAULT_NAMES
from multicri_proxy.dump.rules import Rules
from multicri_proxy.dump.start import dumping
from multicri_proxy.dump.tap import Tap
from multicri_proxy.remote import RemoteRuntime
from multicri_proxy.server import Server

pytestmark = pytest.mark.testbed


async def test_a_pods_life_is_recorded_and_replayed(
    bed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dumper, dump, proxy_socket = Dumper(), tmp_path / "dump.json", tmp_path / "proxy.sock"
    containerd = bed.node.socket
    async with (
        dumping(
            dumper,
            rules=Rules.parse("full:.*"),
            file=dump,
            to_stderr=False,
            format="json",
            max_bytes=100_000_000,
            files=2,
            redact_names=DEFAULT_NAMES,
        ),
        RemoteRuntime("default", str(containerd)) as remote,
        Server(Tap(remote, dumper), proxy_socket, drain_s=0.2),
        Kubelet.of(proxy_socket, tmp_path) as kubelet,
    ):
        await kubelet.call(cri.VersionRequest(), cri.VersionResponse)
        image = await kubelet.pull(bed.registry.busybox)
        pod = await kubelet.run_pod_sandbox("recorded")
        container_id = await kubelet.create_container(
            pod, image, command=["sleep", "600"], env={"DB_PASSWORD": "open sesame"}
        )
        await kubelet.start(container_id)
        assert (await kubelet.status(container_id)).state == cri.CONTAINER_RUNNING
        await kubelet.details(container_id)
        await kubelet.containers(pod_sandbox_id=pod.sandbox_id)
        with pytest.raises(grpc.aio.AioRpcError):
            await kubelet.status("no such container")
        await kubelet.stop(container_id, 0)
        await kubelet.remove(container_id)
        await kubelet.remove_sandbox(pod.sandbox_id)
        await until(lambda: "RemovePodSandbox" in dump.read_text())
    assert dumper.dropped == 0
    assert "sesame" not in dump.read_text()
    capsys.readouterr()
    status = await asyncio.to_thread(run, "replay", str(dump), "--endpoint", f"unix://{containerd}", "--compare")
    report = capsys.readouterr().out
    assert status == 0, report
    assert "13 calls sent, 0 skipped, 2 ids mapped, 0 differ" in report
