"""The images that were pulled: in memory, and in the store so that a restart keeps them."""

import asyncio
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace

from multicri_images.names import PREFIX, source_of
from multicri_proxy.api.adapter import ImagesContext, Store
from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.ids import ImageId, ImageRef
from multicri_proxy.api.image import BuildSource, Image, ImagePool, RegistryAuth
from multicri_proxy.api.log import Log

SHORTEST_ID_PREFIX = 12  # crictl prints 13 digits of an id

_HEX = re.compile(r"[0-9a-f]{12,64}", re.ASCII)
_log = Log("images")


async def pool(context: ImagesContext) -> ImagePool:
    """The plug-in: an ImagesFactory."""
    images = [_from_row(value) for _, value in await context.store.items()]
    return Pool(context.store, sorted(images, key=lambda pair: pair[0]))


def image_id(source: str) -> ImageId:
    """The id of the image that this source means.

    It is the hash of the canonical source and not of the content: an image is named in a pod before any cluster has
    built it, and PullImage carries no credentials for one, so the digest of the content is not known when the kubelet
    wants an id. The same source is the same id, on every node and after every restart.
    """
    return ImageId(f"sha256:{hashlib.sha256(source.encode()).hexdigest()}")


class Pool:
    """Images by id. Two names of one source are one image with two names."""

    def __init__(self, store: Store, numbered: Sequence[tuple[int, Image]]) -> None:
        self._store = store
        self._images = {image.id: image for _, image in numbered}
        self._numbers = {image.id: number for number, image in numbered}
        self._next = max(self._numbers.values(), default=-1) + 1
        self._writing = asyncio.Lock()

    def owns(self, name: str) -> bool:
        return name.startswith(PREFIX) or self._by_id(name) is not None

    async def pull(
        self, name: ImageRef, *, auth: RegistryAuth | None = None, namespace: str = "", plain: bool = False
    ) -> Image:
        source = source_of(name)
        key = image_id(source)
        async with self._writing:
            known = self._images.get(key)
            if known is None:
                image, number = Image(id=key, source=source, names=(name,)), self._next
            elif name in known.names:
                return known
            else:
                image, number = replace(known, names=(*known.names, name)), self._numbers[key]
            await self._store.put(key, _to_row(image, number))
            self._images[key], self._numbers[key] = image, number
            self._next = max(self._next, number + 1)
        _log.info("image recorded", image=name, source=source, image_id=key)
        return image

    def find(self, name: str) -> Image | None:
        for image in self._images.values():
            if name in image.names:
                return image
        if not name.startswith(PREFIX):
            return self._by_id(name)
        try:
            return self._images.get(image_id(source_of(name)))
        except InvalidArgument:
            return None

    def images(self) -> Sequence[Image]:
        return tuple(self._images.values())

    async def build_source(self, image: Image, namespace: str) -> BuildSource:
        return BuildSource(uri=image.source)

    async def remove(self, name: str) -> Image | None:
        async with self._writing:
            image = self.find(name)
            if image is None:
                return None
            await self._store.delete(image.id)
            del self._images[image.id], self._numbers[image.id]
        _log.info("image forgotten", source=image.source, image_id=image.id)
        return image

    def _by_id(self, name: str) -> Image | None:
        digits = name.removeprefix("sha256:")
        if not _HEX.fullmatch(digits):
            return None
        matches = [image for key, image in self._images.items() if key.startswith(f"sha256:{digits}")]
        return matches[0] if len(matches) == 1 else None


def _to_row(image: Image, number: int) -> bytes:
    row = {"source": image.source, "names": image.names, "size_bytes": image.size_bytes, "number": number}
    return json.dumps(row).encode()


def _from_row(value: bytes) -> tuple[int, Image]:
    row = json.loads(value)
    names = tuple(ImageRef(name) for name in row["names"])
    source = str(row["source"])
    return int(row["number"]), Image(id=image_id(source), source=source, names=names, size_bytes=int(row["size_bytes"]))
