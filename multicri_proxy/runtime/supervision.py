"""Work that outlives the call which began it: supervised loops, and steps that a cancelled call must not cut off."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

from multicri_proxy.api.errors import MulticriError
from multicri_proxy.api.log import Log

log = Log("runtime")

_T = TypeVar("_T")
Pause = Callable[[float], Awaitable[None]]
"""Waits for so many seconds."""


def delays_s(first_s: float = 0.5, longest_s: float = 60.0) -> Iterator[float]:
    """Pauses between tries: each twice the one before, less a random half, so that many do not come at once."""
    step_s = first_s
    while True:
        yield step_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        step_s = min(2 * step_s, longest_s)


class Tasks:
    """A TaskGroup in which no task's failure ends the others."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._stack = AsyncExitStack()
        self._loops: set[asyncio.Task[None]] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._group)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancel what was started; await what is to be finished."""
        self._closing = True
        for task in self._loops:
            task.cancel()
        await self._stack.__aexit__(kind, error, traceback)

    def start(self, name: str, work: Callable[[], Coroutine[object, object, None]]) -> asyncio.Task[None]:
        """Do this in the background. It handles its own errors: one that escapes is logged as a defect."""
        task = self._group.create_task(_guarded(name, work), name=name)
        self._loops.add(task)
        task.add_done_callback(self._loops.discard)
        if self._closing:  # by a call that is still being served
            task.cancel()
        return task

    async def finish(self, name: str, work: Callable[[], Coroutine[object, object, _T]]) -> _T:
        """Do this to its end, even if the caller is cancelled meanwhile, and return its result."""
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                result = await work()
            except asyncio.CancelledError:
                done.cancel()
                raise
            except Exception as error:
                if not done.done():
                    done.set_exception(error)
                elif isinstance(error, MulticriError):
                    log.warning("this failed after its caller went away", task=name, error=error)
                else:
                    log.defect("this failed after its caller went away", error, task=name)
            else:
                if not done.done():
                    done.set_result(result)

        self._group.create_task(run(), name=name)
        return await done


@asynccontextmanager
async def closing(items: AsyncIterator[_T]) -> AsyncIterator[AsyncIterator[_T]]:
    """`contextlib.aclosing` for what need not be a generator."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def _guarded(name: str, work: Callable[[], Coroutine[object, object, None]]) -> None:
    try:
        await work()
    except Exception as error:
        log.defect("a background task ended in a way that it should not", error, task=name)
