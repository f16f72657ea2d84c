"""The daemon as an admin runs it."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from testbed import Testbed
from testbed.processes import until_gone

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed


async def logged(proxy: Proxy, text: str, times: int = 1) -> str:
    """Waits until the daemon's log holds a text so many times; returns the last line of those."""
    async with asyncio.timeout(60):
        while True:
            lines = [line for line in proxy.log.read_text().splitlines() if text in line]
            if len(lines) >= times:
                return lines[times - 1]
            await asyncio.sleep(0.05)


def send(proxy: Proxy, number: signal.Signals) -> None:
    assert proxy.process is not None
    os.kill(proxy.process.pid, number)


async def test_the_socket_is_as_the_runtimes_own(bed: Testbed, proxy: Proxy) -> None:
    ours, theirs = proxy.socket_path.stat(), bed.node.socket.stat()
    assert (ours.st_mode, ours.st_uid, ours.st_gid) == (theirs.st_mode, theirs.st_uid, theirs.st_gid)


@pytest.mark.parametrize(
    ("own", "message"),
    [("--socket-path", "is in use by another process"), ("--resources-cache-path", "another process serves")],
)
async def test_a_second_daemon_is_refused_and_the_first_one_serves_on(
    proxy: Proxy, kubelet: Kubelet, tmp_path: Path, own: str, message: str
) -> None:
    argv = [*proxy.argv, own, str(tmp_path / "second")]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert message in second.stderr
    assert isinstance(await kubelet.sandboxes(), list)


def configure(proxy: Proxy, **settings: str) -> None:
    """Add lines to the file, and have the daemon read it again."""
    with proxy.config.open("a") as file:
        file.writelines(f"{name}: {value}\n" for name, value in settings.items())
    send(proxy, signal.SIGHUP)


async def test_sighup_takes_over_what_can_change_and_names_what_cannot(proxy: Proxy) -> None:
    await logged(proxy, "serving")
    text = proxy.config.read_text()
    proxy.config.write_text(f"{text}  command_timeout_s: 61\npod_ip: 192.0.2.9\n")
    configure(proxy, dump="short:.*")
    assert "changed=dump" in await logged(proxy, "settings reloaded")
    assert "settings=pod_ip,slurm" in await logged(proxy, "these settings change when the daemon is started again")


async def test_sighup_begins_moves_and_ends_a_dump_and_no_call_fails(
    proxy: Proxy, kubelet: Kubelet, tmp_path: Path
) -> None:
    await logged(proxy, "serving")
    text, first, second = proxy.config.read_text(), tmp_path / "first.json", tmp_path / "second.json"
    for file in (first, second):
        proxy.config.write_text(text)
        configure(proxy, dump="full:Version", dump_format="json", dump_file=str(file))
        await says(kubelet, lambda file=file: file.exists())
    size_bytes = first.stat().st_size
    proxy.config.write_text(text)
    configure(proxy, dump_redact_names='"("')
    assert "is no regular expression" in await logged(proxy, "settings not reloaded: nothing is changed")
    before_bytes = second.stat().st_size
    await says(kubelet, lambda: second.stat().st_size > before_bytes)

    proxy.config.write_text(text)
    send(proxy, signal.SIGHUP)
    await logged(proxy, "changed=dump,dump_file,dump_format", times=2)
    after_bytes = second.stat().st_size
    await kubelet.call(cri.VersionRequest(), cri.VersionResponse)
    assert (first.stat().st_size, second.stat().st_size) == (size_bytes, after_bytes)


async def test_nothing_that_formats_dumps_outlives_a_daemon_that_was_killed(
    proxy: Proxy, kubelet: Kubelet, tmp_path: Path
) -> None:
    await logged(proxy, "serving")
    configure(proxy, dump="full:Version", dump_file=str(tmp_path / "dump"))
    await says(kubelet, (tmp_path / "dump").exists)
    assert proxy.process
    tasks = Path(f"/proc/{proxy.process.pid}/task").glob("*/children")
    [child] = [pid for task in tasks for pid in task.read_text().split()]
    assert Path(f"/proc/{child}/oom_score_adj").read_text() == "500\n"
    proxy.kill()
    await until_gone(int(child))
    await proxy.start()


async def test_sighup_with_a_wrong_section_of_the_adapter_changes_nothing(proxy: Proxy) -> None:
    await logged(proxy, "serving")
    proxy.config.write_text(f"{proxy.config.read_text()}  mount_pth: other\n")
    configure(proxy, log_level="error")
    assert "mount_pth" in await logged(proxy, "settings not reloaded")


async def says(kubelet: Kubelet, condition: Callable[[], bool]) -> None:
    """Make the call that is dumped until it shows."""
    async with asyncio.timeout(60):
        while not condition():
            await kubelet.call(cri.VersionRequest(), cri.VersionResponse)
            await asyncio.sleep(0.05)


async def test_sighup_with_a_broken_file_changes_nothing(proxy: Proxy, kubelet: Kubelet) -> None:
    await logged(proxy, "serving")
    configure(proxy, socket_pth="/x", log_level="error")
    assert "did you mean socket_path" in await logged(proxy, "settings not reloaded")
    assert isinstance(await kubelet.sandboxes(), list)


async def test_sigterm_tells_systemd_and_leaves_no_socket(proxy: Proxy, tmp_path: Path) -> None:
    proxy.terminate()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        proxy.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        await proxy.start()
        assert b"READY=1" in systemd.recv(200)
        proxy.terminate()
        assert systemd.recv(200) == b"STOPPING=1"
    assert not proxy.socket_path.exists()


async def test_a_runtime_that_nobody_has_tried_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    """A runtime of our own making, since every real one that is here is a tried one."""

    async def version(request: bytes, context: object) -> bytes:
        return cri.VersionResponse(runtime_name="homemade", runtime_version="0.1").SerializeToString()

    handler = grpc.method_handlers_generic_handler(
        "runtime.v1.RuntimeService", {"Version": grpc.unary_unary_rpc_method_handler(version)}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{tmp_path}/homemade.sock")
    await server.start()
    config = tmp_path / "config.yaml"
    config.write_text(f"remote_runtime_endpoints: default:{tmp_path}/homemade.sock\n")
    proxy = Proxy(tmp_path, config)
    with pytest.raises(RuntimeError, match=r"nobody has tried this runtime.*'homemade'.*--allow-untested-runtimes"):
        await proxy.start()
    config.write_text(f"{config.read_text()}allow_untested_runtimes: true\n")
    await proxy.start()
    proxy.terminate()
    await server.stop(None)


async def test_metrics_are_served_where_the_admin_wants_them(bed: Testbed, proxy: Proxy, kubelet: Kubelet) -> None:
    proxy.terminate()
    path = proxy.directory / "metrics.sock"
    proxy.config.write_text(f"{proxy.config.read_text()}metrics_address: {path}\n")
    await proxy.start()
    await kubelet.sandboxes()
    await kubelet.pull(f"multicri/docker-repository.{bed.registry.busybox}")
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = (await asyncio.wait_for(reader.read(), 60)).decode()
    writer.close()
    assert 'multicri_calls_total{code="OK",method="ListPodSandbox",owner="default+multicri"} 1.0' in text
    assert 'multicri_endpoint_up{owner="default"} 1.0' in text
    assert 'multicri_image_pulls_total{result="ok",source="docker"} 1.0' in text
    assert "multicri_images 1.0" in text


async def test_what_cannot_be_served_at_the_start_is_one_line_and_an_exit_status(proxy: Proxy, tmp_path: Path) -> None:
    proxy.terminate()
    argv = [*proxy.argv, "--metrics-address", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        done.stderr.splitlines()[-1] == f"multicri-proxy: metrics: cannot listen on {tmp_path}: Address already in use"
    )
