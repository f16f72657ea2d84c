"""What containers leave in a cluster, removed: jobs, directories, and then their records with the credentials."""

import asyncio
import posixpath
from collections.abc import Awaitable, Callable, Collection
from weakref import WeakValueDictionary

from multicri_proxy.api.board import Board
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_slurm.allocations import Allocations
from multicri_slurm.records import Record, Records, Stage
from multicri_slurm.retries import until_it_works
from multicri_slurm.verbs import ClusterVerbs
from multicri_slurm.watching import Watching

CLEANUP_WAIT_S = 10.0
STRAGGLERS_WAIT_S = 10.0

_log = Log("slurm")


class Sweeper:
    """Cleans up, while somebody waits for it or in the background, however long it takes."""

    def __init__(
        self,
        *,
        records: Records,
        board: Board,
        tasks: Tasks,
        watching: Watching,
        allocations: Allocations,
        cluster_of: Callable[[Record], ClusterVerbs],
        stop: Callable[[Record], Awaitable[None]],
    ) -> None:
        """stop: ends the job of a container, or what is about to become one; returns when none runs any more."""
        self._records = records
        self._board = board
        self._tasks = tasks
        self._watching = watching
        self._allocations = allocations
        self._cluster_of = cluster_of
        self._stop = stop
        self._sandboxes: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._sweeps: dict[ContainerId, asyncio.Future[None]] = {}

    @property
    def under_way(self) -> Collection[ContainerId]:
        return self._sweeps.keys()

    def sandbox_of(self, record: Record) -> asyncio.Lock:
        """Held while a sandbox gets a container or loses one: the last one takes the pod's emptyDirs with it."""
        key = f"{record.account}:{posixpath.dirname(record.directory)}"
        return self._sandboxes.setdefault(key, asyncio.Lock())

    async def remove(self, record: Record) -> None:
        """Clean up now, or with who does already."""
        if (sweep := self._sweeps.get(record.container_id)) is not None:
            await asyncio.shield(sweep)
        else:
            await self._clean(record)

    async def undo(self, record: Record) -> None:
        """Clean up after a creation that has failed; wait for it a little."""
        await asyncio.wait({self._sweep(record, certain=True)}, timeout=CLEANUP_WAIT_S)

    def sweep(self, record: Record) -> None:
        """Clean up in the background. Of its creation commands may still be under way in the cluster."""
        self._sweep(record, certain=False)

    def _sweep(self, record: Record, *, certain: bool) -> "asyncio.Future[None]":
        """certain: no command of its creation can still be under way, and make anew what was removed."""
        key = record.container_id

        async def clean() -> None:
            now = self._records.get(key) or (record if record.stage is Stage.STAGING else None)
            if now is not None:
                if now.stage is Stage.STAGING and not certain:
                    await self._remove_directories(now)
                    await asyncio.sleep(STRAGGLERS_WAIT_S)
                if now.stage is Stage.SUBMITTED and now.job_id is not None:
                    self._watching.track(now, now.job_id, self._cluster_of(now))
                await self._clean(now)

        async def sweep() -> None:
            await until_it_works(clean, "what is left of a container cannot be removed for now", key)

        future = self._sweeps[key] = self._tasks.outcome(f"sweep {key}", sweep)
        future.add_done_callback(lambda _: self._sweeps.pop(key, None))
        return future

    async def _clean(self, record: Record) -> None:
        """Stop what still runs, delete the directory, then the record and with it the credentials.

        The last container of an allocation takes that with it.
        """
        await self._stop(record)
        self._watching.drop(record)
        async with self.sandbox_of(record):
            await self._remove_directories(record)
            await self._records.delete(record.container_id)
            unused = self._allocations.unused_in(posixpath.dirname(record.directory))
            ends = [self._sweep(one, certain=False) for one in unused if one.container_id not in self._sweeps]
        self._board.forget(record.container_id)
        _log.info("container removed", container_id=record.container_id, account=record.account)
        if ends:
            await asyncio.wait(ends, timeout=CLEANUP_WAIT_S)

    async def _remove_directories(self, record: Record) -> None:
        """Those of the container, and those of its sandbox with the last one there."""
        if not record.directory:
            return
        sandbox = posixpath.dirname(record.directory)
        last = not any(
            other.account == record.account
            and posixpath.dirname(other.directory) == sandbox
            and other.container_id != record.container_id
            for other in self._records.all()
        )
        shared = (f"{sandbox}/volumes",) if last else ()
        results = (record.results, posixpath.dirname(record.results)) if record.results else ()
        try:
            cluster = self._cluster_of(record)
        except FailedPrecondition as error:  # no job is lost by it, and the pod could not be removed otherwise
            _log.error("a container's directory is left in the cluster", directory=record.directory, reason=error)
            return
        await cluster.remove_directories(record.directory, *shared, if_empty=(*results, sandbox))
