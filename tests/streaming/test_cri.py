"""What CRI says of Exec, Attach, PortForward and ExecSync, for an adapter that can do them and for one that cannot."""

import asyncio
import os
import signal

import grpc
import pytest
from runtime.doubles import Client, Node

from multicri_proxy.api.adapter import Phase
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from multicri_proxy.calls import Call, CallFailed
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.local import LocalRuntime
from streaming.conftest import Streaming

MIB = 1024 * 1024


async def exec_sync(streaming: Streaming, *command: str, timeout_s: int = 0) -> cri.ExecSyncResponse:
    request = cri.ExecSyncRequest(container_id=streaming.container_id, cmd=command, timeout=timeout_s)
    return await streaming.client.runtime.exec_sync(request)


async def test_exec_sync_answers_both_outputs_and_the_exit_code(streaming: Streaming) -> None:
    response = await exec_sync(streaming, "sh", "-c", "printf '\\0out'; printf err >&2; exit 3")
    assert (response.stdout, response.stderr, response.exit_code) == (b"\0out", b"err", 3)


async def test_exec_sync_drops_output_beyond_16_mib_and_does_not_fail(streaming: Streaming) -> None:
    command = "head -c 30000000 /dev/zero; head -c 30000000 /dev/zero >&2; exit 5"
    response = await exec_sync(streaming, "sh", "-c", command)
    assert response.exit_code == 5
    assert 15 * MIB < len(response.stdout) + len(response.stderr) <= response.ByteSize() <= 16 * MIB


async def test_exec_sync_that_runs_too_long_is_killed(streaming: Streaming) -> None:
    with pytest.raises(TimeoutError, match="'sleep' did not end within 1 s, and was killed"):
        await exec_sync(streaming, "sleep", "1000", timeout_s=1)
    with pytest.raises(ProcessLookupError):
        os.kill(streaming.adapter.pids[-1], 0)


async def test_time_that_is_up_is_told_as_the_kubelet_expects_it(streaming: Streaming) -> None:
    request = cri.ExecSyncRequest(container_id=streaming.container_id, cmd=["sleep", "1000"], timeout=1)
    call = Call(path="/runtime.v1.RuntimeService/ExecSync", request=request.SerializeToString())
    with pytest.raises(CallFailed) as failed:
        await LocalRuntime("multicri", streaming.client.runtime).call(call)
    assert failed.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not end within 1 s" in failed.value.details


async def test_exec_sync_whose_caller_leaves_is_killed(streaming: Streaming) -> None:
    call = asyncio.ensure_future(exec_sync(streaming, "sleep", "1000"))
    while not streaming.adapter.pids:
        await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(ProcessLookupError):
        os.kill(streaming.adapter.pids[-1], signal.SIG_DFL)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"cmd": ["a"], "tty": True, "stdout": True, "stderr": True}, "a terminal has one output"),
        ({"cmd": ["a"]}, "at least one must be asked for"),
        ({"stdout": True}, "cmd is empty"),
        ({"cmd": ["a", "b\0"], "stdout": True}, r"cmd\[1\] has a NUL byte"),
    ],
)
async def test_an_exec_that_makes_no_sense_is_refused(
    streaming: Streaming, fields: dict[str, object], reason: str
) -> None:
    request = cri.ExecRequest(container_id=streaming.container_id, **fields)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=reason):
        await streaming.client.runtime.exec(request)


@pytest.mark.parametrize("port", [0, -1, 65536])
async def test_a_port_that_is_none_is_refused(streaming: Streaming, port: int) -> None:
    with pytest.raises(InvalidArgument, match=rf"port\[0\]: {port} is no port"):
        await streaming.forward_url(port)


async def test_only_a_running_container_has_streams(streaming: Streaming) -> None:
    client = streaming.client
    with pytest.raises(NotFound):
        await client.runtime.exec(cri.ExecRequest(container_id="unknown", cmd=["a"], stdout=True))
    other = await client.started(await client.sandbox("other"))
    await client.node.cluster.report(other, Phase.QUEUED, reason="Priority")
    while "Priority" not in (await facts(client, other)):
        await asyncio.sleep(0.001)
    with pytest.raises(FailedPrecondition, match=r"waits for its turn \(Priority\)"):
        await client.runtime.exec_sync(cri.ExecSyncRequest(container_id=other, cmd=["a"]))
    await client.stop(other)
    for call in (
        client.runtime.exec(cri.ExecRequest(container_id=other, cmd=["a"], stdout=True)),
        client.runtime.attach(cri.AttachRequest(container_id=other, stdout=True)),
        client.runtime.exec_sync(cri.ExecSyncRequest(container_id=other, cmd=["a"])),
    ):
        with pytest.raises(FailedPrecondition, match="is exited, not running"):
            await call


async def facts(client: Client, container_id: str) -> str:
    request = cri.ContainerStatusRequest(container_id=container_id, verbose=True)
    return (await client.runtime.container_status(request)).info["info"]


async def test_a_stopped_sandbox_has_no_ports(streaming: Streaming) -> None:
    await streaming.client.stop_sandbox(streaming.sandbox_id)
    with pytest.raises(FailedPrecondition, match="is not ready"):
        await streaming.forward_url(80)


async def test_an_adapter_that_lacks_it_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    node = Node(tmp_path_factory.mktemp("node"))
    async with node.running() as runtime:
        client = Client(node, runtime)
        sandbox_id = await client.sandbox()
        container_id = await client.started(sandbox_id)
        await node.cluster.report(container_id, Phase.RUNNING)
        while "running" not in await facts(client, container_id):
            await asyncio.sleep(0.001)
        for name, call in (
            ("Exec", runtime.exec(cri.ExecRequest(container_id=container_id, cmd=["a"], stdout=True))),
            ("Exec", runtime.exec_sync(cri.ExecSyncRequest(container_id=container_id, cmd=["a"]))),
            ("Attach", runtime.attach(cri.AttachRequest(container_id=container_id, stdout=True))),
            ("PortForward", runtime.port_forward(cri.PortForwardRequest(pod_sandbox_id=sandbox_id))),
        ):
            with pytest.raises(Unimplemented, match=f"{name} is not there for pods of the adapter memory"):
                await call
