"""`multicri-proxy jobs` as an admin calls it, about real jobs."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from kubelet import Kubelet, Proxy
from testbed import Testbed

pytestmark = pytest.mark.testbed


def command(proxy: Proxy, *options: str) -> list[str]:
    admin_socket = proxy.socket_path.with_name("multicri-admin.sock")
    return [sys.executable, "-m", "multicri_proxy", "jobs", "--admin-socket", str(admin_socket), *options]


async def jobs(proxy: Proxy, *options: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run, command(proxy, *options), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def until(proxy: Proxy, name: str, **facts: object) -> dict[str, Any]:
    """Ask until the container is so; returns all that is told of it."""
    job: dict[str, Any] = {}
    async with asyncio.timeout(60):
        while not facts.items() <= job.items():
            [job] = [job for job in json.loads(await jobs(proxy, "-o", "json")) if job["container"] == name]
    return job


async def test_a_job_is_listed_while_it_waits_while_it_runs_and_when_it_is_over(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    assert await jobs(proxy) == "POD  CONTAINER  JOB  STATE  REASON  NODE  ELAPSED  CLUSTER\n"
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("science", handler="multicri")
    env = {**account, "JOB_QUEUE": "batch"}
    begins = {**env, "JOB_CUSTOM_CONFIG": "#SBATCH --begin=now+1hour"}
    script = "while [ ! -e go ]; do sleep 0.1; done; exit 3"
    waits = await kubelet.create_container(pod, image, name="waits", command=["true"], env=begins)
    runs = await kubelet.create_container(pod, image, name="runs", command=["sh", "-c", script], env=env)
    staged = await until(proxy, "runs", state="CREATED")
    assert (staged["job_id"], staged["elapsed_s"]) == ("", None)
    await kubelet.start(waits)
    await kubelet.start(runs)

    waiting = await until(proxy, "waits", state="PENDING")
    assert (waiting["reason"], waiting["node"], waiting["elapsed_s"]) == ("BeginTime", "", None)
    running = await until(proxy, "runs", state="RUNNING")
    listed = bed.cluster.run("login", ["squeue", "-h", "-j", running["job_id"], "-o", "%N"], check=True)
    assert running["node"] == listed.stdout.strip()
    assert running["pod"] == "default/science"
    assert running["cluster"] == f"alice@{bed.cluster.host}:{bed.cluster.port}"
    assert running["elapsed_s"] >= 0

    await kubelet.stop(runs, grace_period_s=0)
    ended = await until(proxy, "runs", exit_code=137)
    assert ended["job_id"] == running["job_id"]
    heading, *rows = (await jobs(proxy)).splitlines()
    assert heading.split() == ["POD", "CONTAINER", "JOB", "STATE", "REASON", "NODE", "ELAPSED", "CLUSTER"]
    assert sorted(row.split()[:3] for row in rows) == [
        ["default/science", "runs", ended["job_id"]],
        ["default/science", "waits", waiting["job_id"]],
    ]


async def test_watching_goes_on_through_a_restart_of_the_daemon(proxy: Proxy) -> None:
    watching = await asyncio.create_subprocess_exec(
        *command(proxy, "--watch", "0.1", "-o", "json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert watching.stdout
    async with asyncio.timeout(60):
        assert await watching.stdout.readline() == b"[]\n"
        proxy.terminate()
        while b"no multicri-proxy answers" not in await watching.stdout.readline():
            pass
        await proxy.start()
        while await watching.stdout.readline() != b"[]\n":
            pass
        watching.send_signal(signal.SIGINT)
        assert await watching.wait() == 0


async def test_without_a_daemon_it_says_where_it_looked(proxy: Proxy) -> None:
    proxy.terminate()
    done = subprocess.run(command(proxy), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "no multicri-proxy answers on" in done.stderr
