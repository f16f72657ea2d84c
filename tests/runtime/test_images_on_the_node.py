"""Images that an adapter has on the node: what the kubelet is told of them, and which make room."""

import asyncio
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import pytest

from multicri_proxy.api.adapter import Adapter
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.ids import ImageId
from multicri_proxy.api.image import Build, Image, Stored
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from runtime.doubles import IMAGE, Client, Cluster, MemoryAdapter, MemoryImages, Node

OTHER = "multicri/x:1"
SIZE_BYTES = 5000


class NodeAdapter(MemoryAdapter):
    """Has an image on the node as soon as it is pulled."""

    def __init__(self, cluster: Cluster, directory: Path, there: dict[ImageId, int]) -> None:
        super().__init__(cluster)
        self._directory = directory
        self._there = there

    async def bring_image(self, image: Image, namespace: str) -> None:
        await self._cluster.enter("bring_image", image.id)
        self._there[image.id] = SIZE_BYTES

    def stored(self) -> Stored:
        return Stored(directory=self._directory, sizes_bytes=self._there, inodes_used=3 * len(self._there))

    def builds(self, image_id: ImageId) -> Sequence[Build]:
        return ()

    async def forget_image(self, image: Image) -> None:
        self._there.pop(image.id, None)
        await self._cluster.enter("forget_image", image.id)


class Limited(MemoryImages):
    """Has too many images, once there are two."""

    async def surplus(self, in_use: Container[str], on_node: Mapping[ImageId, int]) -> Sequence[Image]:
        images = self.images()
        return [image for image in images if image.id not in in_use and image.id in on_node] if len(images) > 1 else ()


class ImageNode(Node):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.there: dict[ImageId, int] = {}
        self.make_adapter = self._on_node

    def _on_node(self, cluster: Cluster) -> Adapter:
        return NodeAdapter(cluster, self.directory / "images", self.there)


@pytest.fixture
def node(tmp_path: Path) -> ImageNode:
    return ImageNode(tmp_path)


async def pull(client: Client, name: str = IMAGE) -> str:
    request = cri.PullImageRequest(image=cri.ImageSpec(image=name))
    return (await client.runtime.pull_image(request)).image_ref


async def listed(client: Client) -> dict[str, cri.Image]:
    response = await client.runtime.list_images(cri.ListImagesRequest())
    return {image.id: image for image in response.images}


async def test_the_kubelet_is_told_where_images_are_and_how_much_room_they_take(
    client: Client, node: ImageNode
) -> None:
    image_id = await pull(client)
    (usage,) = (await client.runtime.image_fs_info(cri.ImageFsInfoRequest())).image_filesystems
    assert usage.fs_id.mountpoint == str(node.directory / "images")
    assert (usage.used_bytes.value, usage.inodes_used.value) == (SIZE_BYTES, 3)
    assert (await listed(client))[image_id].size == SIZE_BYTES


async def test_only_an_image_that_takes_room_is_offered_to_the_kubelets_garbage_collection(
    client: Client, node: ImageNode
) -> None:
    (image,) = (await listed(client)).values()
    assert image.pinned, "its removal makes no room here"
    image_id = await pull(client)
    assert not (await listed(client))[image_id].pinned


async def test_an_image_that_cannot_be_had_here_was_not_pulled(client: Client, node: ImageNode) -> None:
    node.cluster.failures["bring_image"] = [FailedPrecondition("no space"), FailedPrecondition("no space")]
    for _ in range(2):
        with pytest.raises(FailedPrecondition, match="no space"):
            await pull(client, OTHER)
    status = await client.runtime.image_status(cri.ImageStatusRequest(image=cri.ImageSpec(image=OTHER)))
    assert not status.HasField("image")
    node.cluster.failures["bring_image"] = [FailedPrecondition("no space")]
    with pytest.raises(FailedPrecondition):
        await pull(client, IMAGE)
    assert len(await listed(client)) == 1, "it was there before"


async def test_beyond_the_limits_what_no_container_uses_makes_room(node: ImageNode) -> None:
    node.images = Limited()
    async with node.running() as runtime:
        client = Client(node, runtime)
        used = await pull(client)
        await client.container(await client.sandbox())
        unused = await pull(client, OTHER)
        async with asyncio.timeout(30):
            await node.cluster.called("forget_image")
        assert list(await listed(client)) == [used]
        assert list(node.there) == [used]
        assert unused not in node.there


async def test_an_image_that_a_container_is_being_created_of_is_used(node: ImageNode) -> None:
    node.images = Limited()
    node.cluster.gates["create_container"] = asyncio.Event()
    async with node.running() as runtime:
        client = Client(node, runtime)
        used = await pull(client)
        creation = asyncio.ensure_future(client.container(await client.sandbox()))
        await node.cluster.called("create_container")
        await pull(client, OTHER)
        await node.cluster.called("forget_image")
        node.cluster.gates["create_container"].set()
        await creation
        assert list(await listed(client)) == [used]
