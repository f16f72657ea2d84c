"""Copies what containers write into their log files, so that a crash neither loses nor repeats a byte."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from multicri_proxy.api.adapter import Adapter, OutputStream
from multicri_proxy.api.errors import MulticriError, NotFound, Unimplemented
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_proxy.ledger import Space
from multicri_proxy.runtime.logfile import LogFile
from multicri_proxy.runtime.logs import Entry, Splitter
from multicri_proxy.runtime.records import LogPosition
from multicri_proxy.runtime.retries import Pause, closing, delays_s
from multicri_proxy.runtime.rows import log_position_from_row, row_of

MOST_NOTES = 20
LONGEST_NOTE = 500

log = Log("logs")


class LogPositions:
    """Saves the positions of all log files together, soon after they have changed."""

    def __init__(self, space: Space, pause: Pause, interval_s: float = 1.0) -> None:
        self._space = space
        self._pause = pause
        self._interval_s = interval_s
        self._changed: dict[ContainerId, LogFile] = {}
        self._any_changed = asyncio.Event()

    def changed(self, container_id: ContainerId, file: LogFile) -> None:
        """Save this one soon."""
        self._changed[container_id] = file
        self._any_changed.set()

    async def load(self) -> dict[str, LogPosition]:
        """By container id, as they were saved last."""
        return {key: log_position_from_row(row) for key, row in await self._space.items()}

    async def save(self, container_id: ContainerId, position: LogPosition) -> None:
        """Save this one now."""
        await self._space.put(container_id, row_of(position))

    async def forget(self, container_id: str) -> None:
        self._changed.pop(ContainerId(container_id), None)
        await self._space.delete(container_id)

    async def run(self) -> None:
        """Save what has changed, no more often than once in the interval."""
        failing = False
        while True:
            await self._any_changed.wait()
            try:
                await self.save_changed()
            except MulticriError as error:
                if not failing:
                    log.warning("log positions cannot be saved, trying again", error=error)
                failing = True
            else:
                failing = False
            await self._pause(self._interval_s)

    async def save_changed(self) -> None:
        """Save all that have changed. What cannot be saved counts as changed still."""
        files, self._changed = self._changed, {}
        self._any_changed.clear()
        rows: dict[str, bytes] = {
            container_id: row_of(file.position) for container_id, file in files.items() if file.position is not None
        }
        try:
            await self._space.put_many(rows)
        except MulticriError:
            self._changed = files | self._changed
            self._any_changed.set()
            raise


class ContainerLog:
    """The log of one container, fed by its two streams.

    A full disk stops only the copying: the output stays where the adapter has it, and is asked for again.
    """

    def __init__(
        self,
        container_id: ContainerId,
        file: LogFile,
        *,
        adapter: Adapter,
        positions: LogPositions,
        tasks: Tasks,
        threads: Executor,
        pause: Pause,
    ) -> None:
        self._container_id = container_id
        self._file = file
        self._adapter = adapter
        self._positions = positions
        self._tasks = tasks
        self._threads = threads
        self._pause = pause
        self._followers: dict[OutputStream, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()
        self._saved_inode: int | None = None
        self._notes: list[str] = []
        self._notes_left = MOST_NOTES
        self._noting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Have the file there before the container starts: ``kubectl logs`` of a queued job is empty, not an error."""
        try:
            await self._open()
        except (MulticriError, OSError) as error:
            log.warning("a log file cannot be opened yet", container_id=self._container_id, error=error)

    def follow(self) -> None:
        """Copy each stream that is not at its end, in the background; again is no error."""
        for stream in OutputStream:
            if stream not in self._followers and not self._file.ended(stream):
                name = f"{stream.value} of {self._container_id}"
                self._followers[stream] = self._tasks.start(name, partial(self._follow, stream))

    def note(self, text: str) -> None:
        """Have a line of our own in the log, soon. There are not more than so many; what cannot be written is lost."""
        if not self._notes_left:
            return
        self._notes_left -= 1
        last = " (no more of this is told here)" if not self._notes_left else ""
        self._notes.append(f"multicri: {text[:LONGEST_NOTE]}{last}")
        if self._noting is None or self._noting.done():
            self._noting = self._tasks.start(f"notes in the log of {self._container_id}", self._write_notes)

    async def all_copied(self, timeout_s: float) -> None:
        """Wait until everything is in the file, or the time is up."""
        if self._followers:
            await asyncio.wait(self._followers.values(), timeout=timeout_s)

    async def reopen(self) -> None:
        """Go on in a new file.

        A kubelet that is refused moves the old file back, so nothing may fail once we write to the new one.
        Raises OSError, or what the ledger raises.
        """
        async with self._opening:
            before = self._file.position
            if before is not None:
                await self._positions.save(self._container_id, before)
            await self._in_thread(self._file.reopen)
            self._positions.changed(self._container_id, self._file)
            try:
                await self._positions.save_changed()
            except MulticriError as error:
                log.warning("a rotated log's position is not saved yet", container_id=self._container_id, error=error)

    async def stop(self) -> None:
        """Copy no more. Only `open` and `follow` after a restart begin again."""
        tasks = [*self._followers.values(), *([self._noting] if self._noting else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._in_thread(self._file.close)

    async def _open(self) -> None:
        async with self._opening:
            await self._in_thread(self._file.open)
            position = self._file.position
            if position is not None and position.inode != self._saved_inode:
                # Before either stream's first byte: else a crash would leave a file of which we know nothing.
                await self._positions.save(self._container_id, position)
                self._saved_inode = position.inode

    async def _write_notes(self) -> None:
        while self._notes:
            note = self._notes.pop(0)
            try:
                await self._open()
                await self._in_thread(self._file.note, note)
            except (MulticriError, OSError) as error:
                log.warning("a note cannot be written to the log file", container_id=self._container_id, error=error)
            else:
                self._positions.changed(self._container_id, self._file)

    async def _follow(self, stream: OutputStream) -> None:
        pauses, failing = delays_s(), False
        while True:
            before = self._file.read_bytes(stream)
            try:
                await self._open()
                await self._copy(stream)
            except (Unimplemented, NotFound):
                break  # the adapter has no output, or not any more
            except Exception as error:
                if self._file.read_bytes(stream) != before:
                    pauses, failing = delays_s(), False
                if not failing:
                    self._say_once(stream, error)
                failing = True
            else:
                break
            await self._pause(next(pauses))
        self._file.end(stream)
        self._positions.changed(self._container_id, self._file)
        if all(self._file.ended(one) for one in OutputStream):
            if self._noting:
                await asyncio.wait({self._noting})
            await self._in_thread(self._file.close)

    async def _copy(self, stream: OutputStream) -> None:
        """Copy from where the file is to the stream's end."""
        splitter = Splitter()
        output = self._adapter.output(self._container_id, stream, self._file.read_bytes(stream))
        async with closing(output) as chunks:
            async for chunk in chunks:
                await self._append(stream, splitter.feed(chunk))
            await self._append(stream, splitter.end())

    async def _append(self, stream: OutputStream, entries: list[Entry]) -> None:
        if entries:
            await self._in_thread(self._file.append, stream, entries)
            self._positions.changed(self._container_id, self._file)

    async def _in_thread(self, work: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _say_once(self, stream: OutputStream, error: Exception) -> None:
        facts = {"container_id": self._container_id, "stream": stream.value}
        if isinstance(error, MulticriError | OSError):
            log.warning("output cannot be copied to the log file, trying again", error=error, **facts)
        else:
            log.defect("output cannot be copied to the log file, trying again", error, **facts)
