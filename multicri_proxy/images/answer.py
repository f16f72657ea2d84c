"""The daemon's end of ``multicri-proxy images``: lines about images, then one that says that this was all."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from multicri_proxy.admin import Command, Connection
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, MulticriError, NotFound
from multicri_proxy.api.ids import ImageRef
from multicri_proxy.api.image import Build, Image, ImagePool, RegistryAuth
from multicri_proxy.api.tasks import Tasks

END = {"end": True}
"""The last line of an answer that is complete."""

PROGRESS_S = 0.5


class Keeper(Protocol):
    """What the daemon knows of images beyond the pool."""

    async def have_image(
        self, name: ImageRef, *, auth: RegistryAuth | None = None, namespace: str = "", plain: bool = False
    ) -> Image: ...

    async def drop_image(self, name: str) -> None: ...

    def builds_of(self, image: Image) -> Sequence[Build]: ...

    def containers_by_image(self) -> Counter[str]: ...


def images_command(pool: ImagePool, keeper: Keeper) -> Command:
    """The admin command ``images``; its field ``do`` says what."""
    answer = _Answer(pool, keeper)
    ways: dict[str, Callable[[Mapping[str, Any]], AsyncGenerator[Mapping[str, Any], None]]] = {
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
            async with aclosing(way(fields)) as lines:
                async for line in lines:
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

    async def list(self, _: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        used = self._keeper.containers_by_image()
        for image in self._pool.images():
            yield self._about(image, used[image.id])

    async def pull(self, fields: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        """A client that leaves ends its pull; a build goes on."""
        name = ImageRef(_name(fields))
        auth = self._auth(fields, name)
        if auth is None and fields.get("docker_config"):
            yield {"progress": "the docker config has nothing for its registry"}
        yield {"progress": f"asking what {name} means"}
        before = self._pool.find(name)
        have = partial(self._keeper.have_image, name, auth=auth, namespace=str(fields.get("namespace", "")))
        async with Tasks() as tasks:
            pull = tasks.outcome(f"pull {name}", have)
            while not (await asyncio.wait({pull}, timeout=PROGRESS_S))[0]:
                for line in self._progress(name):
                    yield line
            image = await pull
        if image.config is None:
            yield {"progress": "its registry was not asked: the cluster will find out when it builds"}
        elif before is not None and before.id != image.id:
            yield {"progress": "its tag has moved since it was pulled last"}
        yield self._about(image, self._keeper.containers_by_image()[image.id])

    async def remove(self, fields: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        name = _name(fields)
        image = self._pool.find(name)
        if image is None:
            raise NotFound(f"image {name!r} is not there")
        used = self._keeper.containers_by_image()[image.id]
        if used and not fields.get("force"):
            raise FailedPrecondition(f"image {name!r} is used by {used} containers: --force forgets it all the same")
        await self._keeper.drop_image(image.id)
        yield self._about(image, used)

    async def prune(self, _: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        for image in self._pool.images():
            if not image.pinned and not self._keeper.containers_by_image()[image.id]:
                await self._keeper.drop_image(image.id)
                yield self._about(image, 0)

    async def log(self, fields: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        name = _name(fields)
        image = self._pool.find(name)
        if image is None:
            raise NotFound(f"image {name!r} is not there")
        for build in self._keeper.builds_of(image):
            yield asdict(build)

    def _auth(self, fields: Mapping[str, Any], name: ImageRef) -> RegistryAuth | None:
        """Credentials that came with the request: for the image's registry, and shown nowhere."""
        if config := fields.get("docker_config"):
            return self._pool.auth_in(str(config).encode(), name)
        if username := fields.get("username"):
            return RegistryAuth(username=str(username), password=str(fields.get("password", "")))
        return None

    def _progress(self, name: str) -> Sequence[Mapping[str, Any]]:
        image = self._pool.find(name)
        builds = self._keeper.builds_of(image) if image is not None else ()
        return [
            {"progress": f"building in {build.place}", "done_bytes": build.done_bytes, "of_bytes": build.of_bytes}
            for build in builds
            if build.state == "building"
        ]

    def _about(self, image: Image, containers: int) -> dict[str, Any]:
        return {
            "id": image.id,
            "names": image.names,
            "digests": image.digests,
            "source": image.source,
            "size_bytes": image.size_bytes,
            "pinned": image.pinned,
            "containers": containers,
            "builds": [_told(build) for build in self._keeper.builds_of(image)],
        }


def _told(build: Build) -> Mapping[str, Any]:
    told = {"place": build.place, "state": build.state}
    arrived = {"done_bytes": build.done_bytes, "of_bytes": build.of_bytes}
    return {**told, **arrived} if build.state == "building" else told


def _name(fields: Mapping[str, Any]) -> str:
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidArgument("'name' must be an image's name or id")
    return name
