"""Which accounts have which images: in memory, and in the store, so that a removal finds them after a restart."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from multicri_proxy.api.adapter import Store
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.ids import ImageId
from multicri_slurm.accounts import Account
from multicri_slurm.records import OF_IMAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlace:
    """An image in an account's directory, which is absolute.

    content: what it was made of, as hexadecimal digits, if its id does not tell.
    """

    image_id: ImageId
    profile: str
    account: Account
    directory: str
    content: str = ""

    def __str__(self) -> str:
        return f"{self.account}:{self.directory}"

    @property
    def name(self) -> str:
        """The digits that its files are named by: those of its id, unless there is more to tell."""
        return self.content or self.image_id.removeprefix("sha256:")

    @property
    def key(self) -> str:
        return f"{OF_IMAGES}{self.image_id} {self.profile} {self}{f' {self.content}' if self.content else ''}"


class ImagePlaces:
    """All of them, with the images' sizes in bytes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sizes: dict[ImagePlace, int] = {}

    async def load(self) -> None:
        for key, value in await self._store.items():
            if not key.startswith(OF_IMAGES):
                continue
            try:
                row = json.loads(value)
                size = row.pop("size_bytes")
                self._sizes[ImagePlace(**(row | {"account": Account(**row["account"])}))] = size
            except (KeyError, TypeError, ValueError) as error:
                raise FailedPrecondition(f"the record {key} is of another version: {error}") from error

    def all(self) -> Sequence[ImagePlace]:
        return tuple(self._sizes)

    def of(self, image_id: ImageId) -> Mapping[ImagePlace, int]:
        return {place: size for place, size in self._sizes.items() if place.image_id == image_id}

    async def put(self, place: ImagePlace, size_bytes: int) -> None:
        """Note that it is there. Writes only what is news."""
        if self._sizes.get(place) != size_bytes:
            await self._store.put(place.key, json.dumps(asdict(place) | {"size_bytes": size_bytes}).encode())
            self._sizes[place] = size_bytes

    def beside(self, place: ImagePlace, name: str) -> ImagePlace | None:
        """The place of another image in the same directory, by the name of its files."""
        same = (place.profile, str(place), name)
        return next((other for other in self._sizes if (other.profile, str(other), other.name) == same), None)

    async def drop(self, place: ImagePlace) -> None:
        await self._store.delete(place.key)
        self._sizes.pop(place, None)
