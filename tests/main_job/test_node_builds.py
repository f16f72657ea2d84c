"""Images that the node builds and sends: through the proxy, to real accounts of the real cluster."""

import asyncio
import fcntl
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import yaml
from kubelet import Kubelet, Proxy
from kubelet.client import read_log
from testbed import Testbed
from testbed.images import TOOL_IMAGE, Image, build_layout, fill_with_busybox

from main_job.conftest import account_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

LARGE = Image(name="test/large:1.0", config=("--config.env=PATH=/bin:/usr/bin",))
LARGE_BYTES = 24 * 1024 * 1024
PIECE_BYTES = 4 * 1024 * 1024


@pytest.fixture
def directory(bed: Testbed) -> Iterator[Path]:
    """Of images on the node: where builders can get to it."""
    made = bed.settings.run / "images-of-the-node"
    yield made
    subprocess.run(["rm", "-rf", made], check=True)
    for user in ("alice", "bob"):
        bed.cluster.run("login", ["rm", "-rf", f"/home/{user}/sent-images"], check=True)


@pytest.fixture
def settings(bed: Testbed, directory: Path) -> dict[str, object]:
    return {
        "remote_runtime_endpoints": {"default": str(bed.node.socket)},
        "images": {
            "directory": str(directory),
            "registries": {bed.registry.address: {"ca_file": str(bed.registry.authority.certificate)}},
        },
        "slurm": {
            "known_hosts": str(bed.cluster.known_hosts),
            "build_in_cluster": False,
            "image_remote_mount": "sent-images",
        },
    }


@pytest.fixture
async def proxy(settings: dict[str, object], tmp_path: Path) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.fixture(scope="module")
def large(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image that takes some time to be sent."""

    def fill(rootfs: Path) -> None:
        fill_with_busybox(rootfs)
        (rootfs / "var/random").write_bytes(os.urandom(LARGE_BYTES))

    layout = tmp_path_factory.mktemp("large") / "layout"
    build_layout(layout, (LARGE,), fill)
    bed.registry.push(layout, LARGE)
    return f"multicri/docker-repository.{bed.registry.address}/{LARGE.name}"


def tool(bed: Testbed) -> str:
    return f"multicri/docker-repository.{bed.registry.address}/{TOOL_IMAGE.name}"


def sent(bed: Testbed, user: str) -> Path:
    return bed.cluster.user(user).home / "sent-images"


def builds_and_sends(proxy: Proxy) -> tuple[int, int]:
    log = proxy.log.read_text()
    return log.count("building an image on the node"), log.count("sending an image")


async def eventually(question: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not question():
            await asyncio.sleep(0.01)


def coming(bed: Testbed, user: str) -> int:
    """How much of an image has come so far."""
    return max((path.stat().st_size for path in sent(bed, user).glob(".*.sending.*")), default=0)


async def test_an_image_is_built_once_sent_once_to_each_account_and_runs_there(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet
) -> None:
    """alice has Apptainer in the cluster, bob Charliecloud, and the node Charliecloud alone."""
    image_id = await kubelet.pull(tool(bed))
    for user in ("alice", "bob"):
        pods = [await kubelet.run_pod_sandbox(f"{user}-{number}", handler="multicri") for number in range(5)]
        env = {**account_of(bed, user), "JOB_QUEUE": "batch"}
        containers = await asyncio.gather(
            *(kubelet.create_container(pod, image_id, args=["one"], env=env) for pod in pods)
        )
        for container in containers[1:]:
            await kubelet.remove(container)
        await kubelet.start(containers[0])
        assert (await kubelet.wait_until_exited(containers[0])).exit_code == 0
        assert read_log(pods[0]) == ["in /var/tool, TOOL=of the image\n", "<one>\n"]
    assert builds_and_sends(proxy) == (1, 2)
    assert [path.suffix for path in sent(bed, "alice").glob("[0-9a-f]*")] == [".squashfs"]
    assert [path.is_dir() for path in sent(bed, "bob").glob("[0-9a-f]*")] == [True]


async def test_a_daemon_that_is_killed_in_the_middle_of_sending_goes_on_where_it_was(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, large: str
) -> None:
    pod = await kubelet.run_pod_sandbox("large", handler="multicri")
    image_id = await kubelet.pull(large)
    wanted = asyncio.ensure_future(
        kubelet.create_container(pod, image_id, command=["ls", "-l", "/var/random"], env=account_of(bed, "alice"))
    )
    await eventually(lambda: coming(bed, "alice") > 2 * PIECE_BYTES)
    proxy.kill()
    await asyncio.wait({wanted})
    there = coming(bed, "alice")
    assert 2 * PIECE_BYTES < there < LARGE_BYTES
    await proxy.start()
    container = await kubelet.create_container(
        pod, image_id, command=["ls", "-l", "/var/random"], env=account_of(bed, "alice")
    )
    offsets = [int(offset) for offset in re.findall(r"sending an image.* offset=(\d+)", proxy.log.read_text())]
    assert offsets == [0, (there - 1) // PIECE_BYTES * PIECE_BYTES]
    assert builds_and_sends(proxy)[0] == 1
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    assert str(LARGE_BYTES) in read_log(pod)[0]


async def test_a_cut_connection_costs_a_piece_and_what_did_not_arrive_as_it_was_sent_is_sent_again(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, large: str
) -> None:
    pod = await kubelet.run_pod_sandbox("cut", handler="multicri")
    image_id = await kubelet.pull(large)
    wanted = asyncio.ensure_future(
        kubelet.create_container(pod, image_id, command=["true"], env=account_of(bed, "bob"))
    )
    await eventually(lambda: coming(bed, "bob") > 2 * PIECE_BYTES)
    bed.cluster.run("login", ["pkill", "-KILL", "-u", "bob", "sshd"], check=True)
    (file,) = sent(bed, "bob").glob(".*.sending.*")
    with file.open("r+b") as spoilt:
        spoilt.write(b"spoilt")
    await wanted
    log = proxy.log.read_text()
    assert "sending went on after an error" in log
    assert "an image did not arrive as it was sent" in log
    assert builds_and_sends(proxy) == (1, 2)


async def test_a_daemon_that_is_killed_in_the_middle_of_a_build_leaves_nothing_that_runs_and_builds_anew(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, directory: Path
) -> None:
    pod = await kubelet.run_pod_sandbox("built", handler="multicri")
    image_id = await kubelet.pull(tool(bed))
    directory.mkdir(mode=0o711)
    lock = os.open(directory / f"{image_id.removeprefix('sha256:')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    wanted = asyncio.ensure_future(
        kubelet.create_container(pod, image_id, command=["true"], env=account_of(bed, "alice"))
    )
    await eventually(builds)
    proxy.kill()
    await asyncio.wait({wanted})
    await eventually(lambda: not builds())
    os.close(lock)
    await proxy.start()
    container = await kubelet.create_container(pod, image_id, command=["true"], env=account_of(bed, "alice"))
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0


def builds() -> list[str]:
    """Builds on the node that run."""
    found = subprocess.run(["ps", "-eo", "stat=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=1) for line in found.splitlines()]
    return [words for stat, words in lines if not stat.startswith("Z") and "multicri_images.building" in words]


async def test_an_image_that_is_removed_goes_from_the_node_and_from_the_cluster(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, directory: Path
) -> None:
    pod = await kubelet.run_pod_sandbox("removed", handler="multicri")
    image_id = await kubelet.pull(tool(bed))
    container = await kubelet.create_container(pod, image_id, command=["true"], env=account_of(bed, "alice"))
    other = await kubelet.create_container(
        pod,
        await kubelet.pull(f"multicri/docker-repository.{bed.registry.address}/test/busybox:1.0"),
        name="other",  # whose credentials lead to the account when the first one is gone
        env=account_of(bed, "alice"),
    )
    digits = image_id.removeprefix("sha256:")
    assert list(directory.glob(f"{digits}.squashfs")) and list(sent(bed, "alice").glob(f"{digits}.squashfs"))
    await kubelet.remove(container)
    await kubelet.call(cri.RemoveImageRequest(image=cri.ImageSpec(image=image_id)), cri.RemoveImageResponse)
    assert not list(directory.glob(f"{digits}.squashfs*"))
    await eventually(lambda: not [path for path in sent(bed, "alice").glob(f"*{digits}*") if path.suffix != ".lock"])
    await kubelet.remove(other)
