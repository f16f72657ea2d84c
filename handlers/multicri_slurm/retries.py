"""Doing again what failed because something was silent."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from multicri_proxy.api.errors import FailedPrecondition, MulticriError
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.log import Log

FIRST_RETRY_S, LAST_RETRY_S = 2.0, 300.0

_log = Log("slurm")


async def until_it_works(step: Callable[[], Awaitable[None]], complaint: str, container_id: ContainerId) -> None:
    """Repeat a step with growing pauses until it succeeds; say once that it does not.

    Gives up on FailedPrecondition, which no waiting mends.
    """
    pause_s = FIRST_RETRY_S
    while True:
        try:
            await step()
        except FailedPrecondition as error:
            _log.error(complaint, container_id=container_id, reason=error, retried=False)
            return
        except MulticriError as error:
            if pause_s == FIRST_RETRY_S:
                _log.warning(complaint, container_id=container_id, reason=error, retried=True)
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311
            pause_s = min(LAST_RETRY_S, pause_s * 2)
        else:
            return


async def within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, not longer than so many seconds; was it set?"""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    return event.is_set()
