"""A store in memory, and how tests open pools over it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from multicri_proxy.api.image import ImagePool

OpenPool = Callable[..., AbstractAsyncContextManager[ImagePool]]
"""Takes settings."""


class MemoryStore:
    """A Store that outlives a pool, as the ledger does."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}

    async def put(self, key: str, value: bytes) -> None:
        self.rows[key] = value

    async def delete(self, key: str) -> None:
        self.rows.pop(key, None)

    async def items(self) -> Sequence[tuple[str, bytes]]:
        return sorted(self.rows.items())
