"""CRI's calls for images, answered from the pool."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace

from multicri_proxy.api.counts import ImageCounts
from multicri_proxy.api.errors import InvalidArgument, MulticriError
from multicri_proxy.api.ids import ImageId, ImageRef
from multicri_proxy.api.image import (
    BringsImages,
    Build,
    Image,
    KeepsImages,
    RegistryAuth,
    Stored,
    username_and_password,
)
from multicri_proxy.api.log import Log
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime import messages
from multicri_proxy.runtime.calls import Calls
from multicri_proxy.runtime.late import imported, itself

LIMITS_S = 300.0
"""So often it is noted which images are used, and looked whether there are too many, if nothing is pulled: as often as
the kubelet does so with its own."""

_log = Log("runtime")


class ImageCalls(Calls):
    """The image service."""

    async def pull_image(self, request: cri.PullImageRequest) -> cri.PullImageResponse:
        image = await self.have_image(
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
            image=_message(image, self.stored().sizes_bytes),
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
        """Where the adapter's images are on this node; if it has none here, the file system of our own records, with
        none of it used. How full that is the kubelet asks the kernel. Beside a default runtime nobody asks us.
        """
        stored = self.stored()
        usage = cri.FilesystemUsage(
            timestamp=self._parts.now_ns(),
            fs_id=cri.FilesystemIdentifier(mountpoint=str(stored.directory)),
            used_bytes=cri.UInt64Value(value=stored.used_bytes),
            inodes_used=cri.UInt64Value(value=stored.inodes_used),
        )
        return cri.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])

    async def have_image(
        self, name: ImageRef, *, auth: RegistryAuth | None = None, namespace: str = "", plain: bool = False
    ) -> Image:
        """Pull it; if images are kept on this node, have it built here, too. plain: as `ImagePool.pull` has it."""
        pool = self._parts.images
        known = {image.id for image in pool.images()}
        image = await pool.pull(name, auth=auth, namespace=namespace, plain=plain or self._parts.is_alone)
        adapter = await imported(self._parts.adapter)
        if isinstance(adapter, BringsImages):
            try:
                await adapter.bring_image(image, namespace)
            except MulticriError:
                if image.id not in known and not self.containers_by_image()[image.id]:
                    await self.drop_image(image.id)  # else the kubelet takes it to be there
                raise
        self._parts.images_changed.set()
        return image

    async def keep_within_limits(self) -> None:
        """Without end."""
        while True:
            try:
                async with asyncio.timeout(LIMITS_S):
                    await self._parts.images_changed.wait()
            except TimeoutError:
                for image_id in self.containers_by_image():
                    await self._parts.images.note_use(ImageId(image_id))
            self._parts.images_changed.clear()
            try:
                await self._make_room()
            except (MulticriError, OSError) as error:
                _log.warning("images are not kept within their limits", error=error)

    async def _make_room(self) -> None:
        for image in await self._parts.images.surplus(self.containers_by_image(), self.stored().sizes_bytes):
            if not self.containers_by_image()[image.id]:
                _log.info("an image goes: there are too many", image_id=image.id, source=image.source)
                self._parts.counts.evictions["pool"] += 1
                await self.drop_image(image.id)

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
        """How many containers there are of each image, by its id, those included that are being created."""
        return Counter(record.image_id for record in self._parts.pods.containers()) + self._parts.creating

    @property
    def image_counts(self) -> ImageCounts:
        return self._parts.counts

    def image_count(self) -> int:
        return len(self._parts.images.images())

    def stored(self) -> Stored:
        """What images take of this node. From memory."""
        adapter = itself(self._parts.adapter)
        if isinstance(adapter, BringsImages):
            return adapter.stored()
        return self._parts.images.stored() or Stored(directory=self._parts.directory)

    def _image_facts(self, image: Image) -> dict[str, object]:
        config = {"config": asdict(image.config)} if image.config else {}
        builds = [f"{build.place}: {build.state}" for build in self.builds_of(image)]
        signature = {"signature": image.signature} if image.signature else {}
        return {"source": image.source, "builds": builds, **signature, **config}

    def _selected(self, wanted: cri.ImageFilter) -> list[cri.Image]:
        images, sizes = self._parts.images, self.stored().sizes_bytes
        if wanted.image.image:
            found = images.find(wanted.image.image)
            return [_message(found, sizes)] if found else []
        return [_message(image, sizes) for image in images.images()]


def _message(image: Image, sizes_bytes: Mapping[ImageId, int]) -> cri.Image:
    """One whose removal makes no room on this node is pinned: a kubelet that wants room is to leave it alone."""
    if image.id not in sizes_bytes:
        return messages.image(replace(image, pinned=True))
    return messages.image(replace(image, size_bytes=sizes_bytes[image.id]))


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
