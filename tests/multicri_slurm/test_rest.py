"""A cluster that is reached by slurmrestd and a shared directory: what breaks on that way, and what is left."""

import asyncio
import base64
import contextlib
import ipaddress
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from kubelet.volumes import PodVolumes
from slurm_bench import DEADLINE_S, Bench, eventually, everything
from testbed.cluster import REST_PORT
from testbed.rest_gate import Fault, Gate

from multicri_proxy.api.adapter import Adapter, Mount, OutputStream, Phase
from multicri_proxy.api.errors import InvalidArgument, PermissionDenied, Unavailable, Unimplemented
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.streams import CanAttach, CanExec, CanForward, Streams

pytestmark = [pytest.mark.testbed, pytest.mark.parametrize("bench", ["rest"], indirect=True)]

ENDLESS = ["/bin/sh", "-c", "echo up; while :; do sleep 0.1; done"]


@dataclass
class Client:
    """Somebody who attaches, listens, and says nothing."""

    heard: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)

    async def read(self, _max_bytes: int) -> bytes:
        return await asyncio.get_running_loop().create_future()

    async def write(self, data: bytes) -> None:
        self.heard.put_nowait(data)


@pytest.fixture
async def gate(bench: Bench) -> AsyncIterator[Gate]:
    async with Gate(bench.bed.cluster.host, REST_PORT).serving() as gate:
        bench.settings |= {"rest_url": f"http://127.0.0.1:{gate.port}", "rest_unencrypted": False}
        yield gate


async def started_at_last(bench: Bench, slurm: Adapter, container_id: ContainerId) -> None:
    """Ask for the start as the kubelet does, again and again."""

    async def start() -> bool:
        try:
            await slurm.start_container(container_id)
        except Unavailable:
            return False
        return True

    await eventually(start, "the container is started")


async def test_an_answer_to_a_submit_that_is_lost_makes_no_second_job(bench: Bench, gate: Gate) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "once"])
        await slurm.create_container(spec)
        gate.fault = "lose answer"
        with pytest.raises(Unavailable, match="not slurmrestd"):
            await slurm.start_container(spec.id)
        assert (await slurm.details(spec.id))["stage"] == "submitting"
        await started_at_last(bench, slurm, spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"once\n"
        assert len(bench.jobs("alice", spec.id)) == 1
        await slurm.remove_container(spec.id)
    assert bench.home_files("alice", spec.pod.sandbox_id) == []


async def test_a_question_that_may_be_on_its_way_is_waited_for_before_another_is_sent(bench: Bench, gate: Gate) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "once"])
        await slurm.create_container(spec)
        gate.fault = "lose question"
        with pytest.raises(Unavailable):
            await slurm.start_container(spec.id)
        gate.fault = ""
        with pytest.raises(Unavailable, match="may still be under way"):
            await slurm.start_container(spec.id)
        [attempt] = [path for path in bench.home_files("alice", spec.id) if path.endswith("/attempt")]
        Path(attempt).write_text(f"{time.time() - 60}")
        await slurm.start_container(spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"once\n"
        assert len(bench.jobs("alice", spec.id)) == 1
        await slurm.remove_container(spec.id)


@pytest.mark.parametrize("fault", ["hold question", "hold answer"])
async def test_a_process_that_dies_during_the_submit_runs_its_container_once(
    bench: Bench, gate: Gate, fault: Fault
) -> None:
    spec = bench.spec(["/bin/echo", "once"])
    async with bench.adapter() as slurm:
        await slurm.create_container(spec)
        gate.fault = fault
        first = asyncio.ensure_future(slurm.start_container(spec.id))
        await gate.reached.wait()
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    gate.fault = ""
    async with bench.adapter() as slurm:
        gate.opened.set()
        await started_at_last(bench, slurm, spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"once\n"
        await slurm.remove_container(spec.id)
    assert bench.containers_kept() == []


async def test_while_slurmrestd_is_down_containers_keep_their_state_and_are_stopped_afterwards(bench: Bench) -> None:
    cluster = bench.bed.cluster
    async with bench.adapter() as slurm:
        spec, other = bench.spec(ENDLESS), bench.spec(["/bin/true"])
        await slurm.create_container(spec)
        await slurm.create_container(other)
        await slurm.start_container(spec.id)
        await bench.report(spec.id, Phase.RUNNING)
        cluster.stop_daemon("slurmrestd")
        try:
            with pytest.raises(Unavailable, match="slurmrestd cannot be reached"):
                await slurm.start_container(other.id)
            with pytest.raises(Unavailable):
                await slurm.stop_container(spec.id, 1)
            assert await anext(slurm.output(spec.id, OutputStream.STDOUT, 0)) == b"up\n"
            assert bench.reports[spec.id][-1].phase is Phase.RUNNING
        finally:
            cluster.start_daemon("slurmrestd")
        assert (await slurm.stop_container(spec.id, 1)).phase is Phase.EXITED
        for one in (spec, other):
            await slurm.remove_container(one.id)


async def test_while_slurmctld_is_down_a_start_is_unavailable_and_the_next_one_submits_once(bench: Bench) -> None:
    cluster = bench.bed.cluster
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "once"])
        await slurm.create_container(spec)
        cluster.stop_daemon("slurmctld")
        try:
            with pytest.raises(Unavailable, match="Slurm does not answer"):
                await slurm.start_container(spec.id)
        finally:
            cluster.start_daemon("slurmctld")
        await started_at_last(bench, slurm, spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"once\n"
        assert len(bench.jobs("alice", spec.id)) == 1
        await slurm.remove_container(spec.id)


async def test_an_expired_token_is_refused_with_what_to_do_and_a_new_one_is_taken_without_a_restart(
    bench: Bench, tmp_path: Path
) -> None:
    file, good = tmp_path / "alice.token", (tmp_path / "alice.token").read_text()
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "in"])
        await slurm.create_container(spec)
        short = bench.bed.cluster.token("alice", lifespan_s=1)
        claims = json.loads(base64.urlsafe_b64decode(short.split(".")[1] + "==="))
        file.write_text(f"SLURM_JWT={short}\n")

        async def expired() -> bool:
            return time.time() > claims["exp"] + 1

        await eventually(expired, "the token has expired")
        with pytest.raises(PermissionDenied, match=r"refuses the token: have a new one written to .*\.token_file"):
            await slurm.start_container(spec.id)
        file.write_text(good)
        await started_at_last(bench, slurm, spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"in\n"
        await slurm.remove_container(spec.id)
        assert good.encode() not in b"".join(bench.store.rows.values())


async def test_a_partition_that_is_not_there_and_options_without_a_field_are_refused_by_name(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/true"], env={"JOB_QUEUE": "nowhere"})
        await slurm.create_container(spec)
        with pytest.raises(InvalidArgument, match="Invalid partition name"):
            await slurm.start_container(spec.id)
        await slurm.remove_container(spec.id)
        spec = bench.spec(["/bin/true"], cluster={"JOB_CUSTOM_CONFIG": "--hint=nomultithread"})
        with pytest.raises(InvalidArgument, match="--hint: cannot be had over Slurm's REST interface"):
            await slurm.create_container(spec)
    assert bench.home_files("alice", spec.pod.sandbox_id) == []


async def test_a_question_that_waits_in_the_queue_says_so_and_is_the_same_job_when_it_is_asked_again(
    bench: Bench,
) -> None:
    def partition(state: str) -> None:
        bench.bed.cluster.run("login", ["scontrol", "update", "partitionname=batch", f"state={state}"], check=True)

    partition("down")
    try:
        async with bench.adapter(command_timeout_s=2) as slurm:
            spec = bench.spec(["/bin/true"])

            async def told() -> bool:
                with pytest.raises(Unavailable) as caught:
                    await slurm.create_container(spec)
                return "which is to look around or to build, waits in the queue: PartitionDown" in str(caught.value)

            for _ in range(2):
                await eventually(told, "why it waits")
            listed = bench.bed.cluster.run("login", ["squeue", "-h", "-u", "alice", "-o", "%i"], check=True)
            assert len(listed.stdout.split()) == 1
    finally:
        partition("up")
    async with bench.adapter() as slurm:
        await slurm.create_container(spec)
        await slurm.remove_container(spec.id)


async def test_what_a_pod_asks_for_is_what_the_job_gets(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        options = "--time=02:03:30 --mem=150M --nice=5"
        spec = bench.spec(["/bin/true"], env={"JOB_GPU": "gpu:a100:2"}, cluster={"JOB_CUSTOM_CONFIG": options})
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        facts = bench.job_facts(bench.jobs("alice", spec.id)[0].split()[0])
        assert (facts["TimeLimit"], facts["MinMemoryNode"], facts["Requeue"]) == ("02:04:00", "150M", "0")
        assert facts["TresPerNode"] == "gres/gpu:a100:2"
        assert facts["Comment"] == "alice/pod/main"
        await slurm.remove_container(spec.id)


async def test_a_job_begins_as_a_login_with_what_the_users_own_profile_makes_of_home(bench: Bench) -> None:
    profile = bench.bed.cluster.user("alice").home / ".profile"
    before = profile.read_text()
    profile.write_text(f"{before}\nexport SEEN=$HOME\n")
    try:
        async with bench.adapter() as slurm:
            spec = bench.spec(["/bin/true"], cluster={"CLUSTER_CONFIG": '[ "$SEEN" = /home/alice ]'})
            await slurm.create_container(spec)
            await slurm.start_container(spec.id)
            assert (await bench.report(spec.id, Phase.EXITED)).exit_code == 0
            await slurm.remove_container(spec.id)
    finally:
        profile.write_text(before)


async def test_a_files_owner_is_the_account_and_nobody_else_can_read_it(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/true"], user="bob")
        await slurm.create_container(spec)
        found = [Path(path).stat() for path in bench.home_files("bob", spec.id) if ".uses" not in path]
        assert found
        assert {(stat.st_uid, stat.st_gid) for stat in found} == {(2002, 2002)}
        assert {stat.st_mode & 0o077 for stat in found} == {0}
        await slurm.remove_container(spec.id)
    assert bench.home_files("bob", ".asked") == []


async def test_a_configmap_reaches_the_job_and_an_emptydir_is_made(bench: Bench, tmp_path: Path) -> None:
    pod = PodVolumes(tmp_path / "kubelet/pods/u")
    config = pod.publish("configmap", "cfg", {"greeting": "hello\n"})
    scratch = pod.directory_of("empty-dir", "scratch")
    async with bench.adapter(kubelet_directory=str(tmp_path / "kubelet")) as slurm:
        spec = bench.spec(["/bin/sh", "-c", "cat /cfg/greeting; echo x > /scratch/y && cat /scratch/y"])
        mounts = (
            Mount(container_path="/cfg", host_path=str(config), readonly=True),
            Mount(container_path="/scratch", host_path=str(scratch), readonly=False),
        )
        spec = replace(spec, mounts=mounts)
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"hello\nx\n"
        await slurm.remove_container(spec.id)
    assert bench.home_files("alice", spec.pod.sandbox_id) == []


async def test_a_container_lives_and_dies_without_the_ssh_library_and_what_takes_ssh_is_refused_by_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)  # an import fails from now on
    client = Client()
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", "while :; do echo tick; sleep 0.1; done"])
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        await bench.report(spec.id, Phase.RUNNING)
        assert isinstance(slurm, CanExec)
        assert isinstance(slurm, CanAttach)
        assert isinstance(slurm, CanForward)
        with pytest.raises(Unimplemented, match="lead over SSH, and this cluster is reached by REST"):
            await slurm.exec(spec.id, ["true"], Streams())
        with pytest.raises(Unimplemented, match="lead over SSH"):
            async with slurm.connect(spec.pod.sandbox_id, 80):
                pass
        with pytest.raises(Unimplemented, match="lead over SSH"):
            await slurm.attach(spec.id, Streams(stdin=client, stdout=client))
    bench.reports.clear()
    async with bench.adapter() as slurm:
        assert isinstance(slurm, CanAttach)
        await bench.report(spec.id, Phase.RUNNING)
        attached = asyncio.ensure_future(slurm.attach(spec.id, Streams(stdout=client)))
        assert b"tick\n" in await asyncio.wait_for(client.heard.get(), DEADLINE_S)
        assert (await slurm.stop_container(spec.id, 1)).phase is Phase.EXITED
        await attached
        await slurm.remove_container(spec.id)


async def test_https_is_spoken_with_whom_the_ca_file_vouches_for_and_with_nobody_else(
    bench: Bench, tmp_path: Path
) -> None:
    certificate, key, authority = tmp_path / "crt", tmp_path / "key", bench.bed.authority
    authority.issue(name="rest.test", address=ipaddress.IPv4Address("127.0.0.1"), certificate=certificate, key=key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with Gate(bench.bed.cluster.host, REST_PORT).serving(tls) as gate:
        bench.settings |= {"rest_url": f"https://127.0.0.1:{gate.port}", "rest_unencrypted": False}
        async with bench.adapter() as slurm:
            with pytest.raises(PermissionDenied, match="certificate is not trusted, set rest_ca_file"):
                await slurm.create_container(bench.spec(["/bin/true"]))
        async with bench.adapter(rest_ca_file=str(authority.certificate)) as slurm:
            await ran(bench, slurm)


async def test_a_unix_socket_will_do(bench: Bench, tmp_path: Path) -> None:
    path = str(tmp_path / "rest.sock")
    gate = Gate(bench.bed.cluster.host, REST_PORT).serving(path=path)
    async with gate, bench.adapter(rest_url=f"unix:{path}", rest_unencrypted=False) as slurm:
        await ran(bench, slurm)


async def ran(bench: Bench, slurm: Adapter) -> None:
    spec = bench.spec(["/bin/echo", "in"])
    await slurm.create_container(spec)
    await slurm.start_container(spec.id)
    assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"in\n"
    await slurm.remove_container(spec.id)
