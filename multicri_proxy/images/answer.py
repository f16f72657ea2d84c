"""The daemon's end of ``multicri-proxy images``: lines about images, then one that says that this was all."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from multicri_proxy.admin import Command, Connection
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, MulticriError, NotFound
from multicri_proxy.api.ids import ImageRef
from multicri_proxy.api.image import Build, Image, ImagePool

END = {"end": True}
"""The last line of an answer that is complete."""


class Keeper(Protocol):
    """What the daemon knows of images beyond the pool."""

    async def drop_image(self, name: str) -> None: ...

    def builds_of(self, image: Image) -> Sequence[Build]: ...

    def containers_by_image(self) -> Counter[str]: ...


def images_command(pool: ImagePool, keeper: Keeper) -> Command:
    """The admin command ``images``; its field ``do`` says what."""
    answer = _Answer(pool, keeper)
    ways: dict[str, Callable[[Mapping[str, Any]], AsyncIterator[Mapping[str, Any]]]] = {
        "list": answer.list,
        "pull": answer.pull,
        "rm": answer.remove,
        "prune": answer.prune,
        "log": answer.log,
    }

    async def tell(fields: Mapping[str, Any], client: Connection) -> None:
        way = ways.get(str(fields.get("do")))
        if way is None:
            raise InvalidArgument(f"'do' must be one of {', '.join(ways)}")
        client.accept()
        try:
            async for line in way(fields):
                await client.send(line)
        except MulticriError as error:
            await client.send({"failed": str(error)})
        else:
            await client.send(END)

    return tell


class _Answer:
    """Each way yields lines. Raises MulticriErrors."""

    def __init__(self, pool: ImagePool, keeper: Keeper) -> None:
        self._pool = pool
        self._keeper = keeper

    async def list(self, _: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        used = self._keeper.containers_by_image()
        for image in self._pool.images():
            yield self._about(image, used[image.id])

    async def pull(self, fields: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        name = _name(fields)
        yield {"progress": f"asking what {name} means"}
        before = self._pool.find(name)
        image = await self._pool.pull(ImageRef(name))
        if image.config is None:
            yield {"progress": "its registry was not asked: the cluster will find out when it builds"}
        elif before is not None and before.id != image.id:
            yield {"progress": "its tag has moved since it was pulled last"}
        yield self._about(image, self._keeper.containers_by_image()[image.id])

    async def remove(self, fields: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        name = _name(fields)
        image = self._pool.find(name)
        if image is None:
            raise NotFound(f"image {name!r} is not there")
        used = self._keeper.containers_by_image()[image.id]
        if used and not fields.get("force"):
            raise FailedPrecondition(f"image {name!r} is used by {used} containers: --force forgets it all the same")
        await self._keeper.drop_image(image.id)
        yield self._about(image, used)

    async def prune(self, _: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        for image in self._pool.images():
            if not image.pinned and not self._keeper.containers_by_image()[image.id]:
                await self._keeper.drop_image(image.id)
                yield self._about(image, 0)

    async def log(self, fields: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        name = _name(fields)
        image = self._pool.find(name)
        if image is None:
            raise NotFound(f"image {name!r} is not there")
        for build in self._keeper.builds_of(image):
            yield asdict(build)

    def _about(self, image: Image, containers: int) -> dict[str, Any]:
        return {
            "id": image.id,
            "names": image.names,
            "digests": image.digests,
            "source": image.source,
            "size_bytes": image.size_bytes,
            "pinned": image.pinned,
            "containers": containers,
            "builds": [{"place": build.place, "state": build.state} for build in self._keeper.builds_of(image)],
        }


def _name(fields: Mapping[str, Any]) -> str:
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidArgument("'name' must be an image's name or id")
    return name
