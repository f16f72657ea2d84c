"""No secret of a pod or of an admin is to be read anywhere but where it must be."""

import asyncio
import base64
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest
import yaml
from kubelet import Kubelet, Proxy
from testbed import Testbed
from testbed.host import HostName

from main_job.conftest import account_of, jobs_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

HOSTS: tuple[HostName, ...] = ("login", "cn1", "cn2")
ENV_VALUE = "env-value-9f2c61d0a7"
REGISTRY_PASSWORD = "registry-password-51b7e3"
WRONG_PASSWORD = "wrong-password-c04d77"
PLACES_IN_THE_CLUSTER = "/var/log /var/spool /tmp /run /home /etc/slurm /root"


def secrets_of(bed: Testbed) -> dict[str, str]:
    """By what they are. Of a private key, a line from its middle."""
    return {
        "password": bed.cluster.user("bob").password,
        "private key": bed.cluster.user("alice").key.read_text().splitlines()[2],
        "admin's key": bed.cluster.user("bob").key.read_text().splitlines()[2],
        "env value": ENV_VALUE,
        "registry password": REGISTRY_PASSWORD,
        "wrong password": WRONG_PASSWORD,
    }


def told(secrets: Mapping[str, str], content: bytes) -> list[str]:
    """Those that are in it, plain or in base64."""
    return [
        name
        for name, secret in secrets.items()
        if secret.encode() in content or base64.b64encode(secret.encode())[:-4] in content
    ]


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path) -> AsyncIterator[Proxy]:
    """A daemon that writes down as much as it can, and has a profile that bob's key opens."""
    key = tmp_path / "bob.key"
    key.write_text(bed.cluster.user("bob").key.read_text())
    key.chmod(0o600)
    directory = tmp_path / "proxy"
    directory.mkdir()
    config = tmp_path / "config.yaml"
    settings = {
        "remote_runtime_endpoints": {"default": str(bed.node.socket)},
        "handler": ["multicri", "multicri-hpc"],
        "dump": "full:.*",
        "dump_file": str(directory / "dump.yaml"),
        "slurm": {
            "known_hosts": str(bed.cluster.known_hosts),
            "clusters": {
                "hpc": {
                    "host": bed.cluster.host,
                    "handlers": ["multicri-hpc"],
                    "users": {"default": {"user": "bob", "key_file": str(key)}},
                }
            },
        },
    }
    config.write_text(yaml.safe_dump(settings))
    proxy = Proxy(directory, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


async def watch_children(pid: int, seen: set[bytes]) -> None:
    """Collect the command line and the environment of each process that the daemon starts."""
    while True:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text().split():
                    for file in ("cmdline", "environ"):
                        with suppress(OSError):
                            seen.add(Path("/proc", child, file).read_bytes())
        await asyncio.sleep(0.005)


async def test_no_secret_is_to_be_read_where_it_need_not_be(bed: Testbed, proxy: Proxy, tmp_path: Path) -> None:
    secrets, image = secrets_of(bed), f"multicri/docker-repository.{bed.registry.busybox}"
    assert proxy.process is not None
    children: set[bytes] = set()
    watching = asyncio.ensure_future(watch_children(proxy.process.pid, children))
    by_key = {**account_of(bed, "alice"), "CLUSTER_KEYVALUE": bed.cluster.user("alice").key.read_text()}
    del by_key["CLUSTER_PASSWORD"]
    accounts = [("multicri", by_key), ("multicri", account_of(bed, "bob")), ("multicri-hpc", {})]
    errors = ""
    async with Kubelet.of(proxy.socket_path, tmp_path / "pods") as kubelet:
        auth = cri.AuthConfig(username="someone", password=REGISTRY_PASSWORD)
        await kubelet.call(cri.PullImageRequest(image=cri.ImageSpec(image=image), auth=auth), cri.PullImageResponse)
        pods, containers = [], []
        for number, (handler, account) in enumerate(accounts):
            pod = await kubelet.run_pod_sandbox(f"secret{number}", handler=handler)
            env = {**account, "TOP_SECRET": ENV_VALUE}
            words = ["sh", "-c", "echo ready; sleep 600"]
            container = await kubelet.create_container(pod, image, command=words, env=env)
            await kubelet.start(container)
            await kubelet.wait_for_log(pod, "ready")
            pods.append(pod)
            containers.append(container)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            wrong = {**account_of(bed, "alice"), "CLUSTER_PASSWORD": WRONG_PASSWORD, "TOP_SECRET": ENV_VALUE}
            await kubelet.create_container(pods[0], image, name="refused", command=["true"], env=wrong)
        errors += f"{refused.value.details()}"
        for container in containers:
            errors += str(await kubelet.details(container)) + str(await kubelet.status(container))

        assert told(secrets, errors.encode()) == []
        assert credentials_kept(proxy) == len(containers) + 1, "the registry's, too"
        assert_nothing_on_the_node(secrets, proxy, tmp_path / "pods")
        assert len(environments_in_the_cluster(secrets, bed)) == len(containers)
        for pod, container in zip(pods, containers, strict=True):
            await kubelet.stop(container, grace_period_s=0)
            assert jobs_of(bed, container)
            await kubelet.remove(container)
            await kubelet.remove_sandbox(pod.sandbox_id)
        await kubelet.call(cri.RemoveImageRequest(image=cri.ImageSpec(image=image)), cri.RemoveImageResponse)
    watching.cancel()
    assert children, "the daemon checks keys in a process of its own"
    assert [found for process in children if (found := told(secrets, process))] == []
    assert credentials_kept(proxy) == 0
    assert_nothing_on_the_node(secrets, proxy, tmp_path / "pods")
    assert environments_in_the_cluster(secrets, bed) == set()


def credentials_kept(proxy: Proxy) -> int:
    """How many rows with credentials the ledger still has: of containers, and of images."""
    found = 0
    database = sqlite3.connect(f"file:{proxy.directory}/resources/ledger.db?mode=ro", uri=True)
    for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
        for row in database.execute(f"select * from {table}"):  # noqa: S608
            found += any(b'"sealed"' in value for value in row if isinstance(value, bytes))
    return found


def assert_nothing_on_the_node(secrets: Mapping[str, str], proxy: Proxy, logs: Path) -> None:
    assert proxy.process is not None
    files = [path for top in (proxy.directory, logs) for path in top.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"ledger.db", "multicri-proxy.log", "dump.yaml", "0.log"} <= names
    files += [Path(f"/proc/{proxy.process.pid}/{name}") for name in ("cmdline", "environ")]
    assert {str(path): found for path in files if (found := told(secrets, path.read_bytes()))} == {}


def environments_in_the_cluster(secrets: Mapping[str, str], bed: Testbed) -> set[str]:
    """Command lines, Slurm's own records, logs, spools and homes. Returns the environments of containers, which hold
    their values, for their owner alone."""
    slurm = "scontrol -dd show job; squeue -h -t all -o %all; scontrol show step"
    assert told(secrets, bed.cluster.run("login", ["sh", "-c", slurm], check=True).stdout.encode()) == []
    environments: set[str] = set()
    for host in HOSTS:
        lines = bed.cluster.run(host, ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"], check=True)
        assert told(secrets, lines.stdout.encode()) == [], host
        found = f"grep -rlaF -f /dev/stdin --exclude-dir=.ssh {PLACES_IN_THE_CLUSTER} 2>/dev/null"
        shell = ["sh", "-c", f"{found} | xargs -r stat -c '%a %n'"]
        for line in bed.cluster.run(host, shell, stdin="\n".join(secrets.values())).stdout.splitlines():
            assert re.fullmatch(r"600 /home/(alice|bob)/multi-cri/[0-9a-f]+/[0-9a-f]+/env", line), (host, line)
            environments.add(line)
    modes = "find /home/alice/multi-cri /home/bob/multi-cri -mindepth 1 -not -path '*/images*' -perm /077"
    assert bed.cluster.run("login", ["sh", "-c", modes], check=True).stdout.splitlines() == []
    return environments
