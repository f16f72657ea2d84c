"""Container events for whoever listens. One who listens too slowly is cut off, the others never notice."""

import asyncio
from collections.abc import AsyncIterator

from multicri_proxy.api.errors import ResourceExhausted
from multicri_proxy.cri.v1 import runtime_pb2 as cri


class Events:
    """Publish and subscribe. capacity: how many events may wait for one subscriber."""

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._subscribers: set[_Subscriber] = set()

    def publish(self, event: cri.ContainerEventResponse) -> None:
        for subscriber in self._subscribers:
            subscriber.give(event)

    async def subscribe(self) -> AsyncIterator[cri.ContainerEventResponse]:
        """Events from the first step of the iteration on.

        Raises ResourceExhausted if the subscriber has fallen too far behind: it must list everything anew.
        """
        subscriber = _Subscriber(self._capacity)
        self._subscribers.add(subscriber)
        try:
            while (event := await subscriber.take()) is not None:
                yield event
        finally:
            self._subscribers.discard(subscriber)

    def close(self) -> None:
        """End every subscription once its events are read."""
        for subscriber in self._subscribers:
            subscriber.end()


class _Subscriber:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queue: asyncio.Queue[cri.ContainerEventResponse | None] = asyncio.Queue()
        self._too_slow = False

    def give(self, event: cri.ContainerEventResponse) -> None:
        if self._queue.qsize() >= self._capacity:
            self._too_slow = True
        if not self._too_slow:
            self._queue.put_nowait(event)

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def take(self) -> cri.ContainerEventResponse | None:
        if self._too_slow and self._queue.empty():
            raise ResourceExhausted(f"more than {self._capacity} container events were not read in time: list anew")
        return await self._queue.get()
