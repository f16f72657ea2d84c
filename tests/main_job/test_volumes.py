"""A pod's volumes in its job, through the proxy, with the kubelet's directories on the node and the real cluster."""

import asyncio
import os
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
        mount(shared, "/scratch"),
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
        echo written > /scratch/by-first && echo inside > /inner/file
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


@pytest.fixture
def export(bed: Testbed) -> Iterator[Path]:
    """A directory that each host of the cluster has mounted at ~/multi-cri/nfs-share of both users.

    A bind mount stands in for NFS, which the test bed's kernel need not have.
    """
    for host in ("login", "cn1", "cn2"):
        for user in ("alice", "bob"):
            place = f"/home/{user}/multi-cri/nfs-share"
            make = f"mkdir -p -m 1777 /home/export && setpriv --reuid {user} --clear-groups mkdir -p {place}"
            bind = f"mount --bind /home/export {place}"
            bed.cluster.run(host, ["sh", "-c", f"{make} && chmod 1777 /home/export && {bind}"], check=True)
    yield bed.cluster.user("alice").home.parent / "export"
    for host in ("login", "cn1", "cn2"):
        for user in ("alice", "bob"):
            bed.cluster.run(host, ["umount", f"/home/{user}/multi-cri/nfs-share"], check=True)
    places = [f"/home/{user}/multi-cri/nfs-share" for user in ("alice", "bob")]
    bed.cluster.run("login", ["rmdir", *places], check=True)
    bed.cluster.run("login", ["rm", "-r", "/home/export"], check=True)


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_results_are_found_on_the_server_of_a_volume_that_the_cluster_has_mounted_too(
    bed: Testbed,
    kubelet: Kubelet,
    image: str,
    export: Path,
    volumes_of: Callable[[PodOnNode], PodVolumes],
    user: str,
) -> None:
    await kubelet.pull(image)
    annotations = {"slurm.multicri.io/volume-name.nfs-vol1": "nfs-share"}
    pod = await kubelet.run_pod_sandbox("results", handler="multicri", annotations=annotations)
    container = await kubelet.create_container(
        pod,
        image,
        command=["sh", "-c", "pwd; echo 42 > answer"],
        env=account_of(bed, user),
        mounts=[mount(volumes_of(pod).directory_of("nfs", "nfs-vol1"), "/multicri")],
    )
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    answer = export / pod.sandbox_id / container / "answer"
    await kubelet.wait_for_log(pod, "/multicri\n")
    [told] = read_log(pod, stream="stderr")
    assert told.endswith(f"is kept in /home/{user}/multi-cri/nfs-share/{pod.sandbox_id}/{container}\n")
    assert answer.read_text() == "42\n"
    await kubelet.remove_sandbox(pod.sandbox_id)
    assert answer.read_text() == "42\n"
    assert not (bed.cluster.user(user).home / "multi-cri" / pod.sandbox_id).exists()


async def test_a_volume_for_results_that_the_cluster_has_not_mounted_is_refused(
    bed: Testbed, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes]
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("unmounted", handler="multicri")
    volume = mount(volumes_of(pod).directory_of("nfs", "nowhere"), "/multicri")
    with pytest.raises(grpc.aio.AioRpcError, match=r"no directory /home/alice/multi-cri/nowhere: mount there"):
        await kubelet.create_container(pod, image, command=["true"], env=account_of(bed, "alice"), mounts=[volume])
    assert kept_by(bed, "alice", pod) == []


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_odd_names_and_mounts_inside_of_mounts_come_through(
    bed: Testbed, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes], tmp_path: Path, user: str
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("odd", handler="multicri")
    volumes = volumes_of(pod)
    odd = tmp_path / "allowed" / "näh, 'q' \"d\" $(id)\n`id`"
    odd.mkdir()
    names = ["-rf", "line\nbreak", "'q' \"d\" $(id)", "漢字", "n" * 255]
    for name in names:
        (odd / name).write_text("ok\n")
    (odd / "link").symlink_to("漢字")
    place = "/näh, 'q' \"d\" $(id) `id` \\ #%"
    config = volumes.publish("configmap", "c", {"file": "inner file\n"})
    work = volumes.directory_of("empty-dir", "work")
    memory = volumes.directory_of("empty-dir", "memory")
    script = """
        cd "$1" && cat -- -rf link ./n*n ./*break ./*id* | sort | uniq -c
        cat /scratch/in/side/file /scratch/one.conf && echo x > /scratch/in/new && ls /scratch/in
        echo x > /dev/shm/x && echo all
    """
    container = await kubelet.create_container(
        pod,
        image,
        command=["sh", "-c", script, "sh", place],
        env=account_of(bed, user),
        mounts=[
            mount(work, "/scratch"),
            mount(odd, place, readonly=True),
            mount(config, "/scratch/in/side", readonly=True),
            mount(volumes.subpath("c", config / "file"), "/scratch/one.conf", readonly=True),
            mount(memory, "/dev/shm"),
        ],
    )
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0, read_log(pod)
    await kubelet.wait_for_log(pod, "all\n")
    assert "".join(read_log(pod)).split() == ["5", "ok", *("inner file " * 2).split(), "new", "side", "all"]


async def test_what_cannot_be_had_is_refused_by_name_and_leaves_nothing(
    bed: Testbed, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes], tmp_path: Path
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("refused", handler="multicri")
    volumes = volumes_of(pod)
    big = volumes.directory_of("csi", "big") / "mount"
    big.mkdir()
    (big / "file").write_bytes(bytes(2_000_000))
    pipe = tmp_path / "allowed/pipes"
    pipe.mkdir()
    os.mkfifo(pipe / "pipe")
    for wanted, code, words in (
        (mount(Path("/run/containerd/containerd.sock"), "/run/c.sock"), "INVALID_ARGUMENT", "host_paths_allowed"),
        (mount(Path("/dev/null"), "/dev/mine"), "INVALID_ARGUMENT", "the node's own"),
        (mount(big, "/data"), "INVALID_ARGUMENT", "would be lost"),
        (mount(big, "/data", readonly=True), "RESOURCE_EXHAUSTED", "volume_bytes"),
        (mount(pipe, "/pipes", readonly=True), "INVALID_ARGUMENT", "'pipe' is no regular file"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=words) as raised:
            await kubelet.create_container(pod, image, command=["true"], env=account_of(bed, "alice"), mounts=[wanted])
        assert raised.value.code().name == code
    assert await kubelet.containers(pod_sandbox_id=pod.sandbox_id) == []
    assert kept_by(bed, "alice", pod) == []


async def test_a_creation_that_is_asked_for_again_is_the_same_and_its_message_arrives(
    bed: Testbed, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes]
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("again", handler="multicri")
    volumes = volumes_of(pod)
    script = "head -c 5000 /dev/zero | tr '\\0' x > /dev/termination-log; printf end >> /dev/termination-log; exit 3"

    async def create() -> tuple[str, Path]:
        message = volumes.message()
        mounts = [mount(message, "/dev/termination-log")]
        env = account_of(bed, "alice")
        return await kubelet.create_container(pod, image, command=["sh", "-c", script], env=env, mounts=mounts), message

    (container, first), (again, _) = await create(), await create()
    assert container == again
    await kubelet.start(container)
    status = await kubelet.wait_until_exited(container)
    [message] = [found for found in status.mounts if found.container_path == "/dev/termination-log"]
    assert Path(message.host_path) == first
    assert first.read_text() == "x" * 4093 + "end"


async def test_a_kill_in_the_middle_of_copying_leaves_nothing(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes]
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("killed", handler="multicri")
    volumes = volumes_of(pod)
    work = volumes.directory_of("empty-dir", "work")
    many = volumes.publish("configmap", "many", {f"file{number}": "x" for number in range(1500)})
    warm = await kubelet.create_container(
        pod, image, name="warm", command=["true"], env=account_of(bed, "bob"), mounts=[mount(work, "/scratch")]
    )
    await kubelet.remove(warm)
    creation = asyncio.ensure_future(
        kubelet.create_container(
            pod,
            image,
            command=["true"],
            env=account_of(bed, "bob"),
            mounts=[mount(work, "/scratch"), mount(many, "/many", readonly=True)],
        )
    )
    await eventually(lambda: len(kept_by(bed, "bob", pod)) > 10)
    proxy.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await creation
    assert 10 < len(kept_by(bed, "bob", pod)) < 1500
    await proxy.start()
    home = bed.cluster.user("bob").home
    await eventually(lambda: not (home / "multi-cri" / pod.sandbox_id).exists())
    assert await kubelet.containers(pod_sandbox_id=pod.sandbox_id) == []


async def test_a_full_disk_in_the_cluster_is_told_and_nothing_is_left(
    bed: Testbed, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes]
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("full", handler="multicri")
    volumes = volumes_of(pod)
    config = volumes.publish("configmap", "c", {"file": "x" * 500_000})
    directory = f"/home/alice/multi-cri/{pod.sandbox_id}"
    options = "size=100k,uid=2001,gid=2001,mode=700"
    small = f"mkdir -p {directory} && mount -t tmpfs -o {options} tmpfs {directory}"
    bed.cluster.run("login", ["sh", "-c", small], check=True)
    try:
        with pytest.raises(grpc.aio.AioRpcError, match="is a quota or a disk full") as raised:
            await kubelet.create_container(
                pod,
                image,
                command=["true"],
                env=account_of(bed, "alice"),
                mounts=[mount(config, "/etc/app", readonly=True)],
            )
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        listed = bed.cluster.run("login", ["find", directory, "-mindepth", "1"], check=True)
        assert listed.stdout == ""
    finally:
        bed.cluster.run("login", ["umount", directory], check=True)
        bed.cluster.run("login", ["rmdir", directory], check=True)


async def test_every_rank_of_an_mpi_job_sees_the_volumes(
    bed: Testbed, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes]
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("ranks", handler="multicri")
    volumes = volumes_of(pod)
    config = volumes.publish("configmap", "c", {"file": "for each rank\n"})
    work = volumes.directory_of("empty-dir", "work")
    container = await kubelet.create_container(
        pod,
        image,
        command=["sh", "-c", "cat /etc/app/file; : > /scratch/$OMPI_COMM_WORLD_RANK"],
        env={**account_of(bed, "alice"), "MPI_VERSION": "5", "MPI_FLAGS": "-np 2 --oversubscribe"},
        mounts=[
            mount(config, "/etc/app", readonly=True),
            mount(work, "/scratch"),
            mount(volumes.hosts(HOSTS), "/etc/hosts"),
            mount(volumes.message(), "/dev/termination-log"),
        ],
    )
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0, read_log(pod)
    await kubelet.wait_for_log(pod, "for each rank\n" * 2)
    assert sorted(path.name for path in kept_by(bed, "alice", pod) if path.parent.name == "work") == ["0", "1"]


@pytest.mark.parametrize("target", ["/home/bob", "../../../../.."])
async def test_a_link_that_a_container_leaves_in_an_emptydir_leads_nobody_out_of_it(
    bed: Testbed, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes], target: str
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("planted", handler="multicri")
    volumes = volumes_of(pod)
    config = volumes.publish("configmap", "c", {"file": ""})
    work = mount(volumes.directory_of("empty-dir", "work"), "/scratch")
    env = account_of(bed, "bob")
    container = await kubelet.create_container(
        pod, image, name="first", command=["ln", "-s", target, "/scratch/link"], env=env, mounts=[work]
    )
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    below = mount(config, "/scratch/link/planted", readonly=True)
    with pytest.raises(grpc.aio.AioRpcError, match="'link' is a link"):
        await kubelet.create_container(pod, image, name="second", command=["true"], env=env, mounts=[work, below])
    assert not list(bed.cluster.user("bob").home.parent.glob("**/planted"))


async def test_a_new_version_arrives_when_the_cluster_can_be_reached_again(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes]
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("cut", handler="multicri")
    volumes = volumes_of(pod)
    config = volumes.publish("configmap", "c", {"file": "old"})
    container = await kubelet.create_container(
        pod,
        image,
        command=["sh", "-c", "while [ $(cat /c/file) = old ]; do sleep 0.1; done; cat /c/file"],
        env=account_of(bed, "alice"),
        mounts=[mount(config, "/c", readonly=True)],
    )
    await kubelet.start(container)
    bed.cluster.stop_daemon("sshd")
    try:
        bed.cluster.run("login", ["pkill", "-KILL", "-u", "alice", "sshd"])
        volumes.publish("configmap", "c", {"file": "new\n"})
        await eventually(lambda: "volumes cannot be refreshed" in proxy.log.read_text())
    finally:
        bed.cluster.start_daemon("sshd")
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    await kubelet.wait_for_log(pod, "new\n")


async def test_a_container_that_has_ended_gets_no_new_version(
    bed: Testbed, kubelet: Kubelet, image: str, volumes_of: Callable[[PodOnNode], PodVolumes]
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("ended", handler="multicri")
    volumes = volumes_of(pod)
    mounts = [mount(volumes.publish("configmap", "c", {"file": "old"}), "/c", readonly=True)]

    async def run(name: str, script: str) -> str:
        container = await kubelet.create_container(
            pod, image, name=name, command=["sh", "-c", script], env=account_of(bed, "alice"), mounts=mounts
        )
        await kubelet.start(container)
        return container

    ended = await run("ended", "true")
    await kubelet.wait_until_exited(ended)
    goes_on = await run("goes-on", "while [ $(cat /c/file) = old ]; do sleep 0.1; done")
    volumes.publish("configmap", "c", {"file": "new"})
    await kubelet.wait_until_exited(goes_on)  # they are refreshed in the order of their creation
    home = bed.cluster.user("alice").home
    copies = [home / "multi-cri" / pod.sandbox_id / container / "volumes/0/file" for container in (ended, goes_on)]
    assert [copy.read_text() for copy in copies] == ["old", "new"]
