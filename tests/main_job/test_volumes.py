"""A pod's volumes in its job, through the proxy, with the kubelet's directories on the node and the real cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet, PodVolumes, Proxy, mount
from kubelet.client import PodOnNode, read_log
from testbed import Testbed

from main_job.conftest import CONFIG, account_of

pytestmark = pytest.mark.testbed

SETTINGS = """\
  kubelet_directory: {kubelet}
  volume_refresh_s: 0.5
  host_paths_allowed: [{allowed}]
  volume_bytes: 1000000
"""
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
HOSTS = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"
ALIASES = "\n# Entries added by HostAliases.\n10.1.2.3\tdb.example.org\n"


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    (tmp_path / "allowed").mkdir()
    config.write_text(
        CONFIG.format(containerd=bed.node.socket, known_hosts=bed.cluster.known_hosts)
        + SETTINGS.format(kubelet=tmp_path / "kubelet", allowed=tmp_path / "allowed")
    )
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.fixture
def volumes_of(tmp_path: Path) -> Iterator[Callable[[PodOnNode], PodVolumes]]:
    made: list[PodVolumes] = []

    def volumes_of(pod: PodOnNode) -> PodVolumes:
        made.append(PodVolumes(tmp_path / "kubelet/pods" / pod.config.metadata.uid))
        return made[-1]

    yield volumes_of
    for volumes in made:
        volumes.unmount()


async def eventually(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.05)


def kept_by(bed: Testbed, user: str, pod: PodOnNode) -> list[Path]:
    return list(bed.cluster.user(user).home.glob(f"multi-cri/{pod.sandbox_id}/**/*"))


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_pod_sees_all_its_volumes_and_nothing_of_them_is_left(
    bed: Testbed, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes], user: str
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("volumes", handler="multicri")
    volumes = volumes_of(pod)
    config = volumes.publish("configmap", "settings", {"app.conf": "colour=blue\n", "run.sh": "#!/bin/sh\n"}, 0o755)
    secret = volumes.publish("secret", "keys", {"key": b"\x00\xff\n"}, 0o400)
    token = volumes.publish("projected", "kube-api-access-x", {"token": "first", "ca.crt": "ca", "deep/er": "d"})
    shared = volumes.directory_of("empty-dir", "work")
    (shared / "sub").mkdir()
    common = [
        mount(config, "/etc/app", readonly=True),
        mount(secret, "/keys", readonly=True),
        mount(token, TOKEN_PATH, readonly=True),
        mount(shared, "/work"),
        mount(volumes.subpath("settings", config / "app.conf"), '/etc/single, "file".conf', readonly=True),
        mount(volumes.subpath("work", shared / "sub"), "/inner"),
        mount(volumes.hosts(HOSTS + ALIASES), "/etc/hosts"),
    ]
    script = f"""
        cat /etc/app/app.conf '/etc/single, "file".conf' {TOKEN_PATH}/token {TOKEN_PATH}/deep/er; echo
        od -An -tx1 /keys/key
        [ -x /etc/app/run.sh ] && echo executable
        [ -x /etc/app/../app/..data/app.conf ] && ls /etc/app
        grep -c -e db.example.org -e cn1 /etc/hosts
        echo written > /work/by-first && echo inside > /inner/file
        (echo x > /etc/app/app.conf) 2> /dev/null && echo WRITABLE
        echo the end > /dev/termination-log
    """
    message = volumes.message()
    first = await kubelet.create_container(
        pod,
        image,
        name="first",
        command=["sh", "-c", script],
        env=account_of(bed, user),
        mounts=[*common, mount(message, "/dev/termination-log")],
    )
    await kubelet.start(first)
    status = await kubelet.wait_until_exited(first)
    await kubelet.wait_for_log(pod, "2\n", name="first")
    lines = read_log(pod, name="first", stream="stdout")
    expected = ["colour=blue\n", "colour=blue\n", "firstd\n", " 00 ff 0a\n", "executable\n", "app.conf\n", "run.sh\n"]
    assert lines[: len(expected)] == expected, read_log(pod, name="first")
    assert lines[len(expected)] == "2\n"
    assert status.exit_code in {0, 1}
    if user == "alice":  # Charliecloud has the node's /dev, and no read-only mounts
        assert message.read_text() == "the end\n"
        assert "WRITABLE\n" not in lines
    private = [path for path in kept_by(bed, user, pod) if not path.is_symlink()]
    assert [path for path in private if path.stat().st_mode & 0o077 and "by-first" not in path.name] == [
        path for path in private if path.name == "file"
    ]

    second = await kubelet.create_container(
        pod,
        image,
        name="second",
        command=["cat", "/shared/by-first", "/other/file"],
        env=account_of(bed, user),
        mounts=[
            mount(shared, "/shared", readonly=True),
            mount(volumes.subpath("work", shared / "sub", "second"), "/other"),
        ],
    )
    await kubelet.start(second)
    assert (await kubelet.wait_until_exited(second)).exit_code == 0, read_log(pod, name="second")
    await kubelet.wait_for_log(pod, "written\ninside\n", name="second")
    await kubelet.remove(first)
    assert kept_by(bed, user, pod)
    await kubelet.remove(second)
    assert not list(bed.cluster.user(user).home.glob(f"multi-cri/{pod.sandbox_id}*"))


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_running_container_sees_a_new_version_also_after_the_proxy_was_killed(
    bed: Testbed,
    proxy: Proxy,
    kubelet: Kubelet,
    image: str,
    volumes_of: Callable[[PodOnNode], PodVolumes],
    user: str,
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("rotation", handler="multicri")
    volumes = volumes_of(pod)
    token = volumes.publish("projected", "token", {"token": "one", "old": "o"})
    script = """
        for word in one two three; do
          while [ "$(cat /token/token)" != $word ]; do sleep 0.1; done
          echo "saw $word: $(ls /token)"
        done
    """
    container = await kubelet.create_container(
        pod,
        image,
        command=["sh", "-c", script],
        env=account_of(bed, user),
        mounts=[mount(token, "/token", readonly=True)],
    )
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "saw one: old\ntoken\n")
    volumes.publish("projected", "token", {"token": "two", "new": "n"})
    await kubelet.wait_for_log(pod, "saw two: ")
    proxy.kill()
    volumes.publish("projected", "token", {"token": "three", "new": "n"})
    await proxy.start()
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    await kubelet.wait_for_log(pod, "saw three: new\ntoken\n")
    [copy] = bed.cluster.user(user).home.glob(f"multi-cri/{pod.sandbox_id}/{container}/volumes/0")
    await eventually(
        lambda: len([path for path in copy.iterdir() if path.name.startswith("..2") or len(path.name) == 18]) == 1
    )


async def test_results_are_found_in_the_volume_that_the_cluster_has_mounted_too(
    bed: Testbed, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes]
) -> None:
    home = bed.cluster.user("alice").home
    export = home / "multi-cri/nfs-share"
    await kubelet.pull(image)
    annotations = {"slurm.multicri.io/volume-name.nfs-vol1": "nfs-share"}
    pod = await kubelet.run_pod_sandbox("results", handler="multicri", annotations=annotations)
    volume = mount(volumes_of(pod).directory_of("nfs", "nfs-vol1"), "/multicri")

    async def create() -> str:
        return await kubelet.create_container(
            pod,
            image,
            command=["sh", "-c", "pwd; echo 42 > answer"],
            env=account_of(bed, "alice"),
            mounts=[volume],
        )

    with pytest.raises(grpc.aio.AioRpcError, match=r"the cluster has no directory .*multi-cri/nfs-share"):
        await create()
    bed.cluster.run("login", ["mkdir", "-p", f"/home/alice/multi-cri/{export.name}"], user="alice", check=True)
    container = await create()
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    results = export / pod.sandbox_id / container
    await kubelet.wait_for_log(pod, "/multicri\n")
    assert f"multi-cri/nfs-share/{pod.sandbox_id}/{container}" in "".join(read_log(pod, stream="stderr"))
    assert (results / "answer").read_text() == "42\n"
    await kubelet.remove_sandbox(pod.sandbox_id)
    assert (results / "answer").read_text() == "42\n"
    assert not (home / "multi-cri" / pod.sandbox_id).exists()
