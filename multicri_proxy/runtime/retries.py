"""Doing again what failed, after a while."""

import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

_T = TypeVar("_T")
Pause = Callable[[float], Awaitable[None]]
"""Waits for so many seconds."""


def delays_s(first_s: float = 0.5, longest_s: float = 60.0) -> Iterator[float]:
    """Pauses between tries: each twice the one before, less a random half, so that many do not come at once."""
    step_s = first_s
    while True:
        yield step_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        step_s = min(2 * step_s, longest_s)


@asynccontextmanager
async def closing(items: AsyncIterator[_T]) -> AsyncIterator[AsyncIterator[_T]]:
    """`contextlib.aclosing` for what need not be a generator."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()
