"""Commands in the containers of Slurm pods, as ExecSync and as a client's streams have them."""

import asyncio
import hashlib
import os
import shlex
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from faults.breaking import kill_sessions, sshd_with
from kubelet import Kubelet, Proxy
from kubelet.client import PodOnNode
from streaming.spdy_client import Exec, Spdy
from streaming.websocket_client import WebSocket
from testbed import Testbed

from main_job.conftest import CONFIG, account_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

IDLE = ["sh", "-c", "cd /; echo begun; while :; do sleep 0.2; done"]


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    text = CONFIG.format(containerd=bed.node.socket, known_hosts=bed.cluster.known_hosts)
    config.write_text(f"{text}stream_port: 0\n")
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@dataclass(frozen=True)
class Container:
    """One that runs in the cluster."""

    kubelet: Kubelet
    pod: PodOnNode
    container_id: str

    async def sync(self, *command: str, timeout_s: int = 30) -> cri.ExecSyncResponse:
        request = cri.ExecSyncRequest(container_id=self.container_id, cmd=command, timeout=timeout_s)
        return await self.kubelet.call(request, cri.ExecSyncResponse)

    async def url(self, *command: str, stdin: bool = False, stderr: bool = True, tty: bool = False) -> str:
        request = cri.ExecRequest(
            container_id=self.container_id, cmd=command, stdin=stdin, stdout=True, stderr=stderr and not tty, tty=tty
        )
        return (await self.kubelet.call(request, cri.ExecResponse)).url


async def begun(
    kubelet: Kubelet,
    image: str,
    env: Mapping[str, str | bytes],
    *,
    name: str = "main",
    command: list[str] = IDLE,
    working_dir: str = "",
    annotations: Mapping[str, str] | None = None,
    stdin: bool = False,
    stdin_once: bool = False,
    tty: bool = False,
) -> Container:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox(name, handler="multicri", annotations=annotations)
    container_id = await kubelet.create_container(
        pod, image, command=command, env=env, working_dir=working_dir, stdin=stdin, stdin_once=stdin_once, tty=tty
    )
    await kubelet.start(container_id)
    await kubelet.wait_for_log(pod, "begun\r\n" if tty else "begun\n")
    return await ready(Container(kubelet, pod, container_id))


async def ready(container: Container) -> Container:
    """Once it is known to run: its first words may come before Slurm has told. Or once it is reached again."""
    async with asyncio.timeout(60):
        while True:
            try:
                await container.sync("true")
            except grpc.aio.AioRpcError as error:
                assert error.code() in {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE}
                await asyncio.sleep(0.1)
            else:
                return container


@pytest.fixture(params=["alice", "bob"])
async def container(request: pytest.FixtureRequest, bed: Testbed, kubelet: Kubelet, image: str) -> Container:
    """In Apptainer, and in Charliecloud."""
    env = {**account_of(bed, request.param), "GREETING": "hello 'you'\tthere", "LD_LIBRARY_PATH": "/opt/of the pod"}
    return await begun(kubelet, image, env, working_dir="/tmp")


@pytest.fixture
async def idle(kubelet: Kubelet, image: str, account: Mapping[str, str]) -> Container:
    return await begun(kubelet, image, dict(account))


async def test_a_command_has_the_containers_environment_files_processes_and_working_directory(
    container: Container,
) -> None:
    said = await container.sync("sh", "-c", 'echo "$PWD|$GREETING|$LD_LIBRARY_PATH|${SLURM_JOB_ID-none}"; echo no >&2')
    assert said.stdout, said
    directory, greeting, libraries, job = said.stdout.decode().split("|")
    assert (directory, greeting, job) == ("/tmp", "hello 'you'\tthere", "none\n")
    assert libraries.startswith("/opt/of the pod")
    assert (said.stderr, said.exit_code) == (b"no\n", 0)
    await container.sync("sh", "-c", "echo mine > /tmp/of-exec")
    assert (await container.sync("cat", "/tmp/of-exec")).stdout == b"mine\n"


async def test_exit_codes_are_the_commands_own(container: Container) -> None:
    for command, exit_code in (("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("", 0)):
        assert (await container.sync("sh", "-c", command)).exit_code == exit_code
    missing = await container.sync("no-such-command")
    assert missing.exit_code == 127
    assert b"no-such-command" in missing.stderr


async def until_none_is_left(container: Container, command: str) -> None:
    """Until no process of the container is this one any more."""
    async with asyncio.timeout(60):
        while (await container.sync("sh", "-c", 'ps -o args | grep -q -x "$1"', "sh", command)).exit_code == 0:
            await asyncio.sleep(0.2)


async def test_a_command_that_takes_too_long_is_killed_with_its_children(container: Container) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await container.sync("sh", "-c", "sleep 4321 & sleep 4321", timeout_s=2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until_none_is_left(container, "sleep 4321")


async def test_a_shell_in_a_terminal_knows_its_size_and_ctrl_c(container: Container) -> None:
    shell = await Exec.start(await container.url("sh", stdin=True, tty=True), "stdin", "stdout", "resize")
    await shell.resize(101, 37)
    await shell.type(b"stty size\n")
    while b"37 101" not in shell.streams["stdout"].data:
        await asyncio.sleep(0.1)
        await shell.type(b"stty size\n")
    await shell.resize(90, 20)
    while b"20 90" not in shell.streams["stdout"].data:
        await asyncio.sleep(0.1)
        await shell.type(b"stty size\n")
    # a program with a handler: between a shell's fork and exec Ctrl-C reaches nobody
    program = "trap 'exit 4' INT; echo up''on; while :; do sleep 0.05; done"
    await shell.type(f"sh -c {shlex.quote(program)}\n".encode())
    await shell.until_said(b"upon")
    await shell.type(b"\x03")
    await shell.type(b"exit $(($? + 1))\n")
    assert (await shell.status())["details"]["causes"][0]["message"] == "5"
    await shell.close()


async def test_stdin_ends_on_its_own_over_both_protocols(idle: Container) -> None:
    spdy = await Exec.start(await idle.url("sh", "-c", "cat; echo end >&2", stdin=True), "stdin", "stdout", "stderr")
    await spdy.type(b"no newline")
    await spdy.until_said(b"no newline")
    await spdy.type(b", and the rest", fin=True)
    assert (await spdy.status())["status"] == "Success"
    assert spdy.streams["stdout"].data == b"no newline, and the rest"
    assert spdy.streams["stderr"].data == b"end\n"
    await spdy.close()
    websocket = await WebSocket.connect(await idle.url("cat", stdin=True), "v5.channel.k8s.io")
    await websocket.send(0, b"\0\xff binary")
    await websocket.frame(2, bytes([255, 0]))
    assert (await websocket.status())["status"] == "Success"
    assert websocket.said[1] == b"\0\xff binary"
    await websocket.close()


async def test_64_mib_come_back_unchanged_and_are_not_held_in_memory(idle: Container, proxy: Proxy) -> None:
    echo = await Exec.start(await idle.url("cat", stdin=True, stderr=False), "stdin", "stdout")
    sent, came = hashlib.sha256(), hashlib.sha256()
    echo.spdy.on_data[echo.streams["stdout"].stream_id] = came.update
    before = resident_kib(proxy)
    most = before
    for number in range(1024):
        piece = os.urandom(64 * 1024)
        sent.update(piece)
        await echo.type(piece, fin=number == 1023)
        most = max(most, resident_kib(proxy))
    assert (await echo.status())["status"] == "Success"
    assert came.digest() == sent.digest()
    assert most - before < 24 * 1024
    await echo.close()


def resident_kib(proxy: Proxy) -> int:
    assert proxy.process
    status = Path(f"/proc/{proxy.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


async def test_a_client_that_leaves_takes_its_command_along(container: Container) -> None:
    exec_ = await Exec.start(await container.url("sh", "-c", "echo begun; sleep 4444"), "stdout", "stderr")
    await exec_.until_said(b"begun")
    await exec_.close()
    await until_none_is_left(container, "sleep 4444")


async def test_a_hundred_at_once_fit_into_few_sessions(bed: Testbed, idle: Container) -> None:
    with sshd_with(bed, MaxSessions=10):
        kill_sessions(bed, "alice")
        await ready(idle)
        said = await asyncio.gather(*(idle.sync("sh", "-c", f"sleep 1; echo {number}") for number in range(100)))
    assert [answer.stdout for answer in said] == [b"%d\n" % number for number in range(100)]


async def test_a_dropped_connection_is_told_and_the_next_command_works(bed: Testbed, idle: Container) -> None:
    exec_ = await Exec.start(await idle.url("sh", "-c", "echo begun; sleep 4445"), "stdout", "stderr")
    await exec_.until_said(b"begun")
    kill_sessions(bed, "alice")
    status = await exec_.status()
    assert status["status"] == "Failure"
    assert "alice@" in status["message"]
    await exec_.close()
    assert (await idle.sync("echo", "again")).stdout == b"again\n"
    await until_none_is_left(idle, "sleep 4445")


async def test_fifty_probes_are_one_step_which_ends_with_the_proxy(bed: Testbed, idle: Container, proxy: Proxy) -> None:
    for _ in range(50):
        assert (await idle.sync("test", "-d", "/tmp")).exit_code == 0
    (step,) = steps_of(bed, "alice")
    job, number = step.split(".")
    say_step = ["srun", f"--jobid={job}", "--overlap", "-n1", "--quiet", "sh", "-c", "echo $SLURM_STEP_ID"]
    next_one = bed.cluster.run("login", say_step, user="alice", check=True).stdout
    assert (number, next_one) == ("0", "1\n")
    proxy.kill()
    await until_no_step_runs(bed, "alice")
    await proxy.start()
    assert (await (await ready(idle)).sync("echo", "again")).stdout == b"again\n"


def steps_of(bed: Testbed, user: str) -> list[str]:
    """Those that run, but for the batch script's."""
    listed = bed.cluster.run("login", ["squeue", "-h", "-s", "-u", user, "-o", "%i"], check=True).stdout.split()
    return [step for step in listed if not step.endswith((".batch", ".extern"))]


async def until_no_step_runs(bed: Testbed, user: str) -> None:
    async with asyncio.timeout(60):
        while steps_of(bed, user):
            await asyncio.sleep(0.2)


@pytest.fixture
def no_python(bed: Testbed) -> Iterator[None]:
    """Nodes on which no agent can run."""
    for host in ("cn1", "cn2"):
        bed.cluster.run(host, ["chmod", "a-x", "/usr/bin/python3"], check=True)
    yield
    for host in ("cn1", "cn2"):
        bed.cluster.run(host, ["chmod", "a+x", "/usr/bin/python3"], check=True)


async def test_where_no_agent_can_run_each_command_is_a_step(
    bed: Testbed, no_python: None, idle: Container, proxy: Proxy
) -> None:
    await until_no_step_runs(bed, "alice")
    assert "has no Python" in proxy.log.read_text()
    said = await idle.sync("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (said.stdout, said.stderr, said.exit_code) == (b"out\n", b"err\n", 3)
    shell = await Exec.start(await idle.url("sh", stdin=True, tty=True), "stdin", "stdout", "resize")
    await shell.resize(101, 37)
    while b"37 101" not in shell.streams["stdout"].data:
        await shell.type(b"stty size\n")
        await asyncio.sleep(0.1)
    await shell.type(b"exit 5\n")
    assert (await shell.status())["details"]["causes"][0]["message"] == "5"
    await shell.close()
    exec_ = await Exec.start(await idle.url("sh", "-c", "echo begun; sleep 4446"), "stdout", "stderr")
    await exec_.until_said(b"begun")
    await exec_.close()
    await until_none_is_left(idle, "sleep 4446")


async def test_ports_of_the_job_are_reached_and_silent_ones_told(
    kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    serve = "echo hello > /tmp/index.html; httpd -p 18080 -h /tmp; echo begun; while :; do sleep 0.2; done"
    container = await begun(kubelet, image, dict(account), command=["sh", "-c", serve])
    request = cri.PortForwardRequest(pod_sandbox_id=container.pod.sandbox_id, port=[18080, 18081])
    url = (await kubelet.call(request, cri.PortForwardResponse)).url
    spdy = await Spdy.connect(url, "portforward.k8s.io")
    error = await spdy.open(streamType="error", port="18080", requestID="0")
    data = await spdy.open(streamType="data", port="18080", requestID="0")
    await spdy.send(data, b"GET / HTTP/1.0\r\n\r\n", fin=True)
    await spdy.until(lambda: data.ended and error.ended)
    assert data.data.endswith(b"hello\n")
    assert not error.data
    error = await spdy.open(streamType="error", port="18081", requestID="1")
    await spdy.open(streamType="data", port="18081", requestID="1")
    await spdy.until(lambda: error.ended)
    assert b"nobody answers at port 18081 of cn" in error.data
    await spdy.close()


async def test_attach_follows_what_the_container_says_from_now_on(
    kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    script = "echo begun; while [ ! -e /tmp/go ]; do echo on; sleep 0.1; done; echo more; echo err >&2"
    command = ["sh", "-c", script]
    container = await begun(kubelet, image, dict(account), command=command)
    request = cri.AttachRequest(container_id=container.container_id, stdout=True, stderr=True)
    url = (await kubelet.call(request, cri.AttachResponse)).url
    attached = await Exec.start(url, "stdout", "stderr")
    await attached.until_said(b"on\n")
    with suppress(grpc.aio.AioRpcError):  # the container may have ended before its answer is here
        await container.sync("touch", "/tmp/go")
    assert (await attached.status())["status"] == "Success"
    assert attached.streams["stdout"].data.endswith(b"on\nmore\n")
    assert attached.streams["stderr"].data == b"err\n"
    await attached.close()


async def test_each_container_of_an_allocation_is_entered_on_its_own(
    kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    annotations = {"slurm.multicri.io/pod-model": "allocation-per-pod", "slurm.multicri.io/mem": "200M"}
    first = await begun(kubelet, image, {**account, "ME": "first"}, annotations=annotations)
    other_id = await kubelet.create_container(
        first.pod, image, name="other", command=IDLE, env={**account, "ME": "other"}
    )
    await kubelet.start(other_id)
    await kubelet.wait_for_log(first.pod, "begun\n", name="other")
    other = await ready(Container(kubelet, first.pod, other_id))
    assert (await first.sync("sh", "-c", "echo $ME")).stdout == b"first\n"
    assert (await other.sync("sh", "-c", "echo $ME")).stdout == b"other\n"


async def attach_url(container: Container, *, tty: bool = False) -> str:
    request = cri.AttachRequest(container_id=container.container_id, stdin=True, stdout=True, tty=tty)
    return (await container.kubelet.call(request, cri.AttachResponse)).url


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_stdin_of_a_container_stays_open_for_the_next_one_or_ends_with_the_first(
    bed: Testbed, kubelet: Kubelet, image: str, user: str
) -> None:
    command = ["sh", "-c", 'echo begun; while read -r line; do echo "read $line"; done; echo over']
    env: Mapping[str, str | bytes] = {**account_of(bed, user)}
    open_ = await begun(kubelet, image, env, command=command, stdin=True)
    for word in (b"one", b"two"):
        client = await Exec.start(await attach_url(open_), "stdin", "stdout")
        await client.type(word + b"\n", fin=True)
        await client.until_said(b"read " + word)
        await client.close()
    once = await begun(kubelet, image, env, name="once", command=command, stdin=True, stdin_once=True)
    client = await Exec.start(await attach_url(once), "stdin", "stdout")
    await client.type(b"three\n", fin=True)
    assert (await client.status())["status"] == "Success"
    assert client.streams["stdout"].data.endswith(b"read three\nover\n")
    await client.close()


async def test_a_container_without_stdin_says_so(idle: Container) -> None:
    client = await Exec.start(await attach_url(idle), "stdin", "stdout")
    assert "has no stdin" in (await client.status())["message"]
    await client.close()


async def test_a_rank_of_an_mpi_job_is_entered(kubelet: Kubelet, image: str, account: Mapping[str, str]) -> None:
    container = await begun(kubelet, image, {**account, "ME": "a rank"}, annotations={"slurm.multicri.io/mpi": "pmix"})
    said = await container.sync("sh", "-c", "echo $ME, $SLURM_PROCID")
    assert said.stdout == b"a rank, 0\n"


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_containers_own_terminal_is_attached_to_with_size_ctrl_c_and_its_last_words(
    bed: Testbed, kubelet: Kubelet, image: str, user: str
) -> None:
    env: Mapping[str, str | bytes] = {**account_of(bed, user)}
    command = ["sh", "-c", "cd /; echo begun; exec sh"]
    container = await begun(kubelet, image, env, command=command, stdin=True, tty=True)
    left = await Exec.start(await attach_url(container, tty=True), "stdin", "stdout", "resize")
    await left.type(b"echo $((40+1))\n")
    await left.until_said(b"41")
    await left.close()
    shell = await Exec.start(await attach_url(container, tty=True), "stdin", "stdout", "resize")
    await shell.resize(101, 37)
    while b"37 101" not in shell.streams["stdout"].data:
        await shell.type(b"stty size\n")
        await asyncio.sleep(0.1)
    await shell.type(b"echo sleep''s; sleep 1000\n")
    await shell.until_said(b"sleeps")
    while b"42" not in shell.streams["stdout"].data:
        await shell.type(b"\x03\necho $((40+2))\n")
        await asyncio.sleep(0.2)
    await shell.type(b"echo la''st; exit 5\n")
    assert (await shell.status())["status"] == "Success"
    assert shell.streams["stdout"].data.endswith(b"last\r\n")
    await shell.close()
    assert (await kubelet.wait_until_exited(container.container_id)).exit_code == 5
