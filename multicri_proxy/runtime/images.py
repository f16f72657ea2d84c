"""CRI's calls for images, answered from the pool."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.ids import ImageRef
from multicri_proxy.api.image import Build, Image, KeepsImages, RegistryAuth, username_and_password
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime import messages
from multicri_proxy.runtime.calls import Calls
from multicri_proxy.runtime.late import itself


class ImageCalls(Calls):
    """The image service."""

    async def pull_image(self, request: cri.PullImageRequest) -> cri.PullImageResponse:
        image = await self._parts.images.pull(
            ImageRef(_name(request.image)),
            auth=_auth(request.auth),
            namespace=request.sandbox_config.metadata.namespace,
            plain=request.image.runtime_handler in self._parts.handlers,
        )
        return cri.PullImageResponse(image_ref=image.id)

    async def image_status(self, request: cri.ImageStatusRequest) -> cri.ImageStatusResponse:
        """An image that is not there is an empty answer, no error."""
        image = self._parts.images.find(_name(request.image))
        if image is None:
            return cri.ImageStatusResponse()
        return cri.ImageStatusResponse(
            image=messages.image(image),
            info=messages.info(self._image_facts(image)) if request.verbose else {},
        )

    async def list_images(self, request: cri.ListImagesRequest) -> cri.ListImagesResponse:
        return cri.ListImagesResponse(images=self._selected(request.filter))

    async def stream_images(self, request: cri.StreamImagesRequest) -> AsyncIterator[cri.StreamImagesResponse]:
        for batch in messages.batches(self._selected(request.filter)):
            yield cri.StreamImagesResponse(images=batch)

    async def remove_image(self, request: cri.RemoveImageRequest) -> cri.RemoveImageResponse:
        """Also while a container uses it, as with containerd: what it stands on is kept until it is gone."""
        await self.drop_image(_name(request.image))
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

    async def drop_image(self, name: str) -> None:
        """Have it forgotten, and what was built of it deleted. One that is unknown is no error."""
        image = await self._parts.images.remove(name)
        adapter = itself(self._parts.adapter)
        if image is not None and isinstance(adapter, KeepsImages):
            await adapter.forget_image(image)

    def builds_of(self, image: Image) -> Sequence[Build]:
        """What became of it in each place, from memory."""
        adapter = itself(self._parts.adapter)
        return adapter.builds(image.id) if isinstance(adapter, KeepsImages) else ()

    def containers_by_image(self) -> Counter[str]:
        """How many containers there are of each image, by its id."""
        return Counter(record.image_id for record in self._parts.pods.containers())

    def _image_facts(self, image: Image) -> dict[str, object]:
        config = {"config": asdict(image.config)} if image.config else {}
        builds = [f"{build.place}: {build.state}" for build in self.builds_of(image)]
        return {"source": image.source, "builds": builds, **config}

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


def _auth(auth: cri.AuthConfig) -> RegistryAuth | None:
    """None for an empty one. Raises InvalidArgument, which does not show it."""
    if not auth.ByteSize():
        return None
    username, password = auth.username, auth.password
    if auth.auth:
        try:
            username, password = username_and_password(auth.auth)
        except ValueError as error:
            raise InvalidArgument(f"auth.auth: must be base64 of username:password ({error})") from error
    return RegistryAuth(
        username=username,
        password=password,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
        server_address=auth.server_address,
    )
