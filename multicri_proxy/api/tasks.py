"""Work that outlives the call which began it: background tasks, and steps that a cancelled call must not cut off."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Self, TypeVar

from multicri_proxy.api.errors import MulticriError
from multicri_proxy.api.log import Log

log = Log("tasks")

_T = TypeVar("_T")
_Work = Callable[[], Coroutine[object, object, _T]]


class Tasks:
    """A TaskGroup in which no task's failure ends the others. What it runs is cancelled when it is left."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancel what was started; await what is to be finished."""
        self._closing = True
        for task in self._running:
            task.cancel()
        # An error of whoever leaves is not the group's: it would come out wrapped as one.
        await self._group.__aexit__(None, None, None)

    def start(self, name: str, work: _Work[None]) -> asyncio.Task[None]:
        """Do this in the background. It handles its own errors: one that escapes is logged as a defect."""

        async def run() -> None:
            try:
                await work()
            except Exception as error:
                log.defect("a background task ended in a way that it should not", error, task=name)

        return self._run(name, run())

    def outcome(self, name: str, work: _Work[_T]) -> asyncio.Future[_T]:
        """Do this in the background, for whoever awaits its result. Awaiting it under `asyncio.shield` leaves it be."""
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_seen)
        task = self._run(name, _into(done, name, work))
        task.add_done_callback(lambda ended: done.cancel() if ended.cancelled() else None)  # also before its first step
        return done

    async def finish(self, name: str, work: _Work[_T]) -> _T:
        """Do this to its end, and return its result. A caller that is cancelled keeps its locks until then."""
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_seen)
        self._create(name, _into(done, name, work))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait({done})
            raise

    def _run(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._create(name, work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if self._closing:  # begun by a call that is still being served
            task.cancel()
        return task

    def _create(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        try:
            return self._group.create_task(work, name=name)
        except RuntimeError:  # everything has ended
            work.close()
            raise


async def _into(done: asyncio.Future[_T], name: str, work: _Work[_T]) -> None:
    """Do the work, and put what becomes of it into a future, whose owner may have gone away."""
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


def _seen(done: "asyncio.Future[_T]") -> None:
    """asyncio need not complain of an error that nobody looked at: whoever wanted it has gone."""
    if not done.cancelled():
        done.exception()
