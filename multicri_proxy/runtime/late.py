"""An adapter that is imported when there is something for it to do: a node without its pods has none of its memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from multicri_proxy.api.adapter import (
    Adapter,
    AdapterContext,
    AdapterFactory,
    ContainerSpec,
    OutputStream,
    Report,
    Usage,
)
from multicri_proxy.api.ids import ContainerId, PodSandboxId
from multicri_proxy.runtime.retries import closing


class LateAdapter:
    """Stands for the adapter that ``load`` imports: now, if it remembers anything, else with the first container.

    load: may take long, and is called in a thread of its own. is_needed: whatever comes is the adapter's: it is
    imported in the background as soon as this one serves.
    """

    def __init__(
        self, name: str, load: Callable[[], AdapterFactory], context: AdapterContext, *, is_needed: bool = False
    ) -> None:
        self._name = name
        self._is_needed = is_needed
        self._load = load
        self._context = context
        self._stack = AsyncExitStack()
        self._loading = asyncio.Lock()
        self._is_loaded = asyncio.Event()
        self.loaded: Adapter | None = None
        self._adopted = False

    @property
    def name(self) -> str:
        return self._name

    async def __aenter__(self) -> Self:
        if await self._context.store.items():
            await self.there()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    async def adopt(self, known: Collection[ContainerId]) -> None:
        if known or self.loaded or self._is_needed:
            adapter = await self.there()
            await adapter.adopt(known)
        self._adopted = True

    async def create_container(self, spec: ContainerSpec) -> None:
        adapter = await self.there()
        await adapter.create_container(spec)

    async def start_container(self, container_id: ContainerId) -> None:
        adapter = await self.there()
        await adapter.start_container(container_id)

    async def stop_container(self, container_id: ContainerId, grace_period_s: int) -> Report:
        adapter = await self.there()
        return await adapter.stop_container(container_id, grace_period_s)

    async def remove_container(self, container_id: ContainerId) -> None:
        adapter = await self.there()
        await adapter.remove_container(container_id)

    async def stop_sandbox(self, sandbox_id: PodSandboxId) -> None:
        if self.loaded is not None:  # else it holds nothing
            await self.loaded.stop_sandbox(sandbox_id)

    async def watch(self) -> AsyncIterator[Report]:
        await self._is_loaded.wait()
        adapter = await self.there()
        async with closing(adapter.watch()) as reports:
            async for report in reports:
                yield report

    async def output(self, container_id: ContainerId, stream: OutputStream, offset_bytes: int) -> AsyncIterator[bytes]:
        adapter = await self.there()
        async with closing(adapter.output(container_id, stream, offset_bytes)) as pieces:
            async for piece in pieces:
                yield piece

    def usage(self, container_id: ContainerId) -> Usage | None:
        return self.loaded.usage(container_id) if self.loaded else None

    async def details(self, container_id: ContainerId) -> Mapping[str, str]:
        adapter = await self.there()
        return await adapter.details(container_id)

    async def there(self) -> Adapter:
        """The adapter, imported if it was not."""
        if self.loaded is not None:
            return self.loaded
        async with self._loading:
            if self.loaded is None:
                factory = await asyncio.to_thread(self._load)
                adapter = await self._stack.enter_async_context(factory(self._context))
                if self._adopted:  # it has nothing to take up, and waits to be told so
                    await adapter.adopt(())
                self.loaded = adapter
                self._is_loaded.set()
        return self.loaded


def itself(adapter: Adapter) -> Adapter:
    """The adapter that another may stand for: what it can do beyond `Adapter` is seen of it alone."""
    if isinstance(adapter, LateAdapter) and adapter.loaded is not None:
        return adapter.loaded
    return adapter


async def imported(adapter: Adapter) -> Adapter:
    """The same, waited for."""
    return await adapter.there() if isinstance(adapter, LateAdapter) else adapter
