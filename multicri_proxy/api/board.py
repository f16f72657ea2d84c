"""The last report of each container, and everyone who waits for news."""

import asyncio
from collections.abc import AsyncIterator

from multicri_proxy.api.adapter import Phase, Report
from multicri_proxy.api.ids import ContainerId


class Board:
    """Reports, last one first for who comes late."""

    def __init__(self) -> None:
        self._latest: dict[ContainerId, Report] = {}
        self._listeners: set[asyncio.Queue[Report]] = set()
        self._ended: dict[ContainerId, asyncio.Event] = {}

    def publish(self, report: Report) -> None:
        """Tell everyone, if it is news."""
        known = self._latest.get(report.container_id)
        if known == report or (known is not None and known.phase is Phase.EXITED):
            return
        self._latest[report.container_id] = report
        if report.phase is Phase.EXITED:
            self.ended(report.container_id).set()
        for listener in self._listeners:
            listener.put_nowait(report)

    def latest(self, container_id: ContainerId) -> Report | None:
        return self._latest.get(container_id)

    def ended(self, container_id: ContainerId) -> asyncio.Event:
        """Set once the container has exited."""
        return self._ended.setdefault(container_id, asyncio.Event())

    def forget(self, container_id: ContainerId) -> None:
        self._latest.pop(container_id, None)
        if event := self._ended.pop(container_id, None):
            event.set()

    async def watch(self) -> AsyncIterator[Report]:
        listener: asyncio.Queue[Report] = asyncio.Queue()
        for report in self._latest.values():
            listener.put_nowait(report)
        self._listeners.add(listener)
        try:
            while True:
                yield await listener.get()
        finally:
            self._listeners.discard(listener)
