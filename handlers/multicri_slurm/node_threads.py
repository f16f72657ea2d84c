"""Work on the node's files that may block for good: kept off the event loop, and few pieces of it at a time."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

from multicri_proxy.api.errors import Unavailable

MOST_AT_ONCE = 4
WAIT_S = 30.0

_T = TypeVar("_T")


class NodeThreads:
    """A thread for each piece of work, so that nobody waits at the end of the process for one that hangs."""

    def __init__(self, wait_s: float = WAIT_S, complaint: str = "the pod's volumes cannot be read on the node") -> None:
        self._wait_s = wait_s
        self._complaint = complaint
        self._free = asyncio.Semaphore(MOST_AT_ONCE)

    async def do(self, work: Callable[[], _T]) -> _T:
        """Raises Unavailable if it takes long; it may go on then, and keeps its place."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
                return await self._begin(work)
        except TimeoutError as error:
            raise Unavailable(f"{self._complaint} within {self._wait_s:g} s") from error

    def _begin(self, work: Callable[[], _T]) -> "asyncio.Future[_T]":
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def finish(settle: Callable[[], None]) -> None:
            self._free.release()
            if not done.done():
                settle()

        def run() -> None:
            try:
                settle = partial(done.set_result, work())
            except Exception as error:
                settle = partial(done.set_exception, error)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, settle)

        Thread(target=run, name="volumes", daemon=True).start()
        return done
