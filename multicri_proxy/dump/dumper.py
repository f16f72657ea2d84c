"""Hands records to those who listen. Each has a bounded queue and a thread of its own; no call waits."""

import asyncio
import itertools
import os
import queue
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from multicri_proxy.api.errors import ResourceExhausted
from multicri_proxy.api.log import Log
from multicri_proxy.dump.record import Kind, Record
from multicri_proxy.dump.sinks import Sink

log = Log("dump")

_MOST_LISTENERS = 8
_MOST_RECORDS = 4096
_MOST_BYTES = 32 * 1024 * 1024
_MOST_METHODS = 1000
_LAST_WORDS_S = 2.0
_COMPLAIN_EVERY_S = 60.0


class Texts(Protocol):
    """Makes records into text: a `Formatter`, here or elsewhere."""

    def wants(self, path: str) -> bool:
        """Are a method's records of any use? From memory."""
        ...

    def wants_messages(self, path: str) -> bool:
        """And the messages in them? From memory."""
        ...

    def text(self, record: Record) -> str | None:
        """None if nobody wants to see it. May wait; raises OSError if there is no text to be had."""
        ...

    def close(self) -> None:
        """From any thread: give up waiting, now and later."""
        ...


class Listener:
    """Someone who wants records: formats and writes them in its own thread.

    What does not fit its queue, or cannot be written, is dropped and counted. may_leave: it is no news that the sink
    fails, and in the end nothing that waits is written.
    """

    def __init__(
        self,
        name: str,
        formatter: Texts,
        sink: Sink,
        *,
        may_leave: bool = False,
        most_records: int = _MOST_RECORDS,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self.name = name
        self.formatter = formatter
        self._sink = sink
        self._may_leave = may_leave
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        # each count has one writer, the loop's thread or ours, so that no lock is needed
        self._put_records = self._put_bytes = self._not_put = 0
        self._got_records = self._got_bytes = self._not_written = 0
        self._reported = 0
        self._defective = self._left = False
        self._next_complaint_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"dump to {name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records that are lost."""
        return self._not_put + self._not_written

    def offer(self, record: Record, size_bytes: int) -> None:
        """Take a record if there is room. Never waits."""
        if (
            self._put_records - self._got_records >= self._most_records
            or self._put_bytes - self._got_bytes + size_bytes > self._most_bytes
        ):
            self._not_put += 1  # told by our own thread: logging could wait for the same pipe
            return
        self._put_records += 1
        self._put_bytes += size_bytes
        self._queue.put(record)

    async def close(self) -> None:
        """Write what waits, for at most two seconds; what is left is dropped."""
        if self._may_leave:
            self._left = True
            self._sink.abandon()
        self._queue.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        if not self._may_leave:
            self._thread.join(_LAST_WORDS_S)
        self._sink.abandon()
        self.formatter.close()
        self._thread.join(_LAST_WORDS_S)

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            if not self._left:
                self._guarded(record)
            self._got_bytes += record.held_bytes
            self._got_records += 1
        if self.dropped > self._reported and not self._left:
            self._guarded(None)
        try:
            self._sink.close()
        except OSError as error:
            log.warning("cannot close the dump", to=self.name, error=error)

    def _guarded(self, record: Record | None) -> None:
        """Write a record, if there is one, and before it the number of those that are missing."""
        try:
            text = self.formatter.text(record) if record else ""
            if text is None:
                return
            dropped = self.dropped
            if missing := dropped - self._reported:
                notice = Record(kind=Kind.DROPPED, call_id="", path="", time_ns=time.time_ns(), records=missing)
                text = f"{self.formatter.text(notice)}{text}"
            self._sink.write(text.encode(errors="backslashreplace"))
        except OSError as error:
            self._not_written += record is not None
            if not self._may_leave:
                self._complain("dump records are dropped: they cannot be written or formatted", error=error)
        except Exception as error:  # whatever it is, calls and other records go on
            if not self._defective:
                log.defect("dump records are dropped: they cannot be formatted", error, to=self.name)
            self._defective = True
            self._not_written += record is not None
        else:
            self._reported = dropped
            if missing and not self._may_leave:
                self._complain("dump records were dropped", missing=missing)

    def _complain(self, message: str, **facts: object) -> None:
        """Once a minute at most: what is wrong now is wrong with the next record too."""
        now = time.monotonic()
        if now >= self._next_complaint_at:
            self._next_complaint_at = now + _COMPLAIN_EVERY_S
            log.warning(message, to=self.name, dropped=self.dropped, **facts)


@dataclass(frozen=True, slots=True)
class _Needs:
    """Who wants a method's records; does anybody want the messages?"""

    listeners: tuple[Listener, ...]
    messages: bool


class Dumper:
    """All who listen. Everything but the counters belongs to the loop's thread."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        """Empty: nothing is recorded, and recording costs one look at this."""
        self._counted: set[Listener] = set()
        """Those who listen, and those who left but still write."""
        self._dropped_before = 0
        self._needs: dict[str, _Needs] = {}
        self._numbers = itertools.count(1)
        self._prefix = os.urandom(3).hex()

    @property
    def dropped(self) -> int:
        """Records lost since the start, for all who listen or listened."""
        return self._dropped_before + sum(listener.dropped for listener in tuple(self._counted))

    @asynccontextmanager
    async def listening(self, listener: Listener) -> AsyncIterator[None]:
        """Raises ResourceExhausted if too many listen already."""
        self._counted.add(listener)
        try:
            self._add(listener)
            try:
                yield
            finally:
                self._remove(listener)
        finally:
            await listener.close()
            self._counted.discard(listener)
            self._dropped_before += listener.dropped

    def new_call_id(self) -> str:
        """Unlike that of any other call, after a restart too."""
        return f"{self._prefix}-{next(self._numbers)}"

    def wants(self, path: str) -> bool:
        """Does anybody want a method's records?"""
        return bool(self._needs_of(path).listeners)

    def wants_messages(self, path: str) -> bool:
        """And the messages in them?"""
        return self._needs_of(path).messages

    def take(self, record: Record) -> None:
        """Hand a record to all who want it. Never waits."""
        size_bytes = record.held_bytes
        for listener in self._needs_of(record.path).listeners:
            listener.offer(record, size_bytes)

    def _needs_of(self, path: str) -> _Needs:
        known = self._needs.get(path)
        if known is None:
            listeners = tuple(listener for listener in self.listeners if listener.formatter.wants(path))
            messages = any(listener.formatter.wants_messages(path) for listener in listeners)
            known = _Needs(listeners, messages)
            if len(self._needs) < _MOST_METHODS:  # a client may make up any number of them
                self._needs[path] = known
        return known

    def _add(self, listener: Listener) -> None:
        if len(self.listeners) >= _MOST_LISTENERS:
            raise ResourceExhausted(f"{_MOST_LISTENERS} dumps are going on already")
        self._needs.clear()
        self.listeners = (*self.listeners, listener)

    def _remove(self, listener: Listener) -> None:
        self._needs.clear()
        self.listeners = tuple(other for other in self.listeners if other is not listener)
