"""CRI's calls for images, answered from the pool."""

from collections.abc import AsyncIterator

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.ids import ImageRef
from multicri_proxy.api.image import KeepsImages
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime import messages
from multicri_proxy.runtime.calls import Calls
from multicri_proxy.runtime.late import itself


class ImageCalls(Calls):
    """The image service."""

    async def pull_image(self, request: cri.PullImageRequest) -> cri.PullImageResponse:
        image = await self._parts.images.pull(ImageRef(_name(request.image)))
        return cri.PullImageResponse(image_ref=image.id)

    async def image_status(self, request: cri.ImageStatusRequest) -> cri.ImageStatusResponse:
        """An image that is not there is an empty answer, no error."""
        image = self._parts.images.find(_name(request.image))
        if image is None:
            return cri.ImageStatusResponse()
        return cri.ImageStatusResponse(
            image=messages.image(image),
            info=messages.info({"source": image.source}) if request.verbose else {},
        )

    async def list_images(self, request: cri.ListImagesRequest) -> cri.ListImagesResponse:
        return cri.ListImagesResponse(images=self._selected(request.filter))

    async def stream_images(self, request: cri.StreamImagesRequest) -> AsyncIterator[cri.StreamImagesResponse]:
        for batch in messages.batches(self._selected(request.filter)):
            yield cri.StreamImagesResponse(images=batch)

    async def remove_image(self, request: cri.RemoveImageRequest) -> cri.RemoveImageResponse:
        """Also while a container uses it, as with containerd: what the container stands on is kept until it is gone."""
        image = await self._parts.images.remove(_name(request.image))
        adapter = itself(self._parts.adapter)
        if image is not None and isinstance(adapter, KeepsImages):
            await adapter.forget_image(image)
        return cri.RemoveImageResponse()

    async def image_fs_info(self, request: cri.ImageFsInfoRequest) -> cri.ImageFsInfoResponse:
        """The file system of our own records, with none of it used for images: they are built where they run."""
        usage = cri.FilesystemUsage(
            timestamp=self._parts.now_ns(),
            fs_id=cri.FilesystemIdentifier(mountpoint=str(self._parts.directory)),
            used_bytes=cri.UInt64Value(value=0),
            inodes_used=cri.UInt64Value(value=0),
        )
        return cri.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])

    def _selected(self, wanted: cri.ImageFilter) -> list[cri.Image]:
        images = self._parts.images
        if wanted.image.image:
            found = images.find(wanted.image.image)
            return [messages.image(found)] if found else []
        return [messages.image(image) for image in images.images()]


def _name(image: cri.ImageSpec) -> str:
    if not image.image:
        raise InvalidArgument("image.image is empty")
    return image.image
