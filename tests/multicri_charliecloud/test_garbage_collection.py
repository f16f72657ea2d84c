"""Images on a small file system of the node: what the kubelet sees of them, and what makes room."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from kubelet.image_gc import collect_garbage, used_percent
from testbed import Testbed
from testbed.images import Image, build_layout, fill_with_busybox

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

MIB = 1024 * 1024
IMAGES = tuple(Image(name=f"gc/image:{number}", config=(f"--config.env=NUMBER={number}",)) for number in range(4))
BALLAST_BYTES = 4 * MIB


@pytest.fixture
def who() -> str:
    return "root"


@pytest.fixture
def place(place: Path) -> Iterator[Path]:
    """With a file system of its own for images and containers."""
    directory = place / "daemon/charliecloud"
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={40 * MIB},mode=0711", "tmpfs", directory], check=True)
    yield place
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def limits() -> str:
    return ""


@pytest.fixture
def config(config: str, limits: str) -> str:
    return config.replace("{images}", f"{{images}}{limits}")


@pytest.fixture(scope="module")
def names(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """Images of several MiB each that have nothing in common."""

    def fill(rootfs: Path) -> None:
        fill_with_busybox(rootfs)
        (rootfs / "ballast").write_bytes(bytes(range(256)) * (BALLAST_BYTES // 256))

    layout = tmp_path_factory.mktemp("images") / "layout"
    build_layout(layout, IMAGES, fill)
    for image in IMAGES:
        bed.registry.push(layout, image)
    return [f"multicri/docker-repository.{bed.registry.address}/{image.name}" for image in IMAGES]


async def used_bytes(kubelet: Kubelet) -> int:
    info = await kubelet.call(cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
    return info.image_filesystems[0].used_bytes.value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


def on_disk(proxy: Proxy) -> set[str]:
    """Ids of images, and names like them of what is on its way in or out."""
    return {f"sha256:{path.name}" for path in (proxy.directory / "charliecloud/images").iterdir()}


async def test_the_kubelets_garbage_collection_makes_room_and_what_is_used_stays(
    kubelet: Kubelet, proxy: Proxy, names: Sequence[str], place: Path
) -> None:
    used = await kubelet.pull(names[0])
    pod = await kubelet.run_pod_sandbox("user", handler="multicri")
    container = await kubelet.create_container(pod, used, command=["sh", "-c", "echo ready; sleep 600"])
    empty = await used_percent(kubelet)
    unused = [await kubelet.pull(name) for name in names[1:]]
    assert await used_percent(kubelet) >= empty + 3 * (100 * BALLAST_BYTES // (40 * MIB))
    sizes = {image.id: image.size for image in await kubelet.images()}
    assert all(BALLAST_BYTES < size < 2 * BALLAST_BYTES for size in sizes.values()), "what it takes, no more"
    assert await used_bytes(kubelet) == sum(sizes.values())

    assert await collect_garbage(kubelet, high_percent=99, low_percent=10) == []
    removed = await collect_garbage(kubelet, high_percent=50, low_percent=empty + 20)
    assert removed == unused[: len(removed)] and 0 < len(removed) < 3
    assert on_disk(proxy) == {used, *unused} - set(removed)
    assert await used_percent(kubelet) <= empty + 20
    assert await used_bytes(kubelet) == sum(size for image_id, size in sizes.items() if image_id not in removed)

    assert await collect_garbage(kubelet, high_percent=1, low_percent=1) == unused[len(removed) :]
    assert on_disk(proxy) == {used}
    assert [image.id for image in await kubelet.images()] == [used]
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "ready\n")


@pytest.mark.parametrize("limits", [f"  limit_bytes: {12 * MIB}\n  spare_s: 0\n"])
async def test_beyond_its_limit_the_pool_makes_room_itself_by_last_use_also_after_a_restart(
    kubelet: Kubelet, proxy: Proxy, names: Sequence[str]
) -> None:
    first, second = [await kubelet.pull(name) for name in names[:2]]
    pod = await kubelet.run_pod_sandbox("user", handler="multicri")
    container = await kubelet.create_container(pod, first, command=["true"])
    await kubelet.remove(container)
    proxy.kill()
    (proxy.directory / "charliecloud/images/0123.building").mkdir()
    await proxy.start()
    third = await kubelet.pull(names[2])
    await until(lambda: on_disk(proxy) == {first, third})
    assert {image.id for image in await kubelet.images()} == {first, third}
    assert second not in {image.id for image in await kubelet.images()}


async def test_a_full_file_system_fails_the_pull_and_leaves_no_half_image(
    kubelet: Kubelet, proxy: Proxy, names: Sequence[str]
) -> None:
    directory = proxy.directory / "charliecloud"
    free = shutil.disk_usage(directory).free
    (directory / "hog").write_bytes(bytes(free - 3 * MIB))
    with pytest.raises(grpc.aio.AioRpcError, match="no space is left") as raised:
        await kubelet.pull(names[0])
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert on_disk(proxy) == set()
    assert await kubelet.images() == []
    (directory / "hog").unlink()
    assert await kubelet.pull(names[0]) in on_disk(proxy)
