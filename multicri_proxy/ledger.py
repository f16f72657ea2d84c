"""What must survive a restart, in SQLite.

One table of (space, key, value). All of SQLite's work is done by one thread of the ledger's own, so that a slow
disk delays whoever waits for it and nobody else; writes that wait together are committed together.
"""

import asyncio
import concurrent.futures
import contextlib
import fcntl
import os
import sqlite3
import stat
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from multicri_proxy.api.errors import FailedPrecondition, MulticriError, ResourceExhausted, Unavailable

SCHEMA = 1
"""Number of the table's form. One more for each change that an older proxy would misread."""

_LARGEST_BATCH = 256

_T = TypeVar("_T")
_Job = tuple[Callable[[sqlite3.Connection], Any], "concurrent.futures.Future[Any]"]


class Ledger:
    """An open ledger. Made by `Ledger.open`."""

    def __init__(self, connection: sqlite3.Connection, executor: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._executor = executor
        self._waiting: deque[_Job] = deque()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        """Open the ledger, or make a new one. No second process can have it open at the same time.

        Raises FailedPrecondition if the file is in use, from a newer version, not a ledger, or open to others.
        """
        loop = asyncio.get_running_loop()
        with (
            contextlib.ExitStack() as files,
            ThreadPoolExecutor(1, thread_name_prefix="ledger") as executor,
        ):
            await loop.run_in_executor(executor, _make_directory, path.parent)
            await loop.run_in_executor(executor, files.enter_context, _locked(path))
            connection = await loop.run_in_executor(executor, _connect, path)
            ledger = cls(connection, executor)
            try:
                yield ledger
            finally:
                await asyncio.shield(loop.run_in_executor(executor, ledger._close))

    def space(self, name: str) -> "Space":
        """The dictionary of this name; its keys are apart from those of all others."""
        return Space(self, name)

    async def run(self, job: Callable[[sqlite3.Connection], _T]) -> _T:
        """Have the ledger's thread do this inside of a transaction. It is done even if the caller is cancelled.

        Raises Unavailable or ResourceExhausted if the disk fails; then nothing of the job was done.
        """
        done: concurrent.futures.Future[_T] = concurrent.futures.Future()
        self._waiting.append((job, done))
        try:
            self._executor.submit(self._drain)
        except RuntimeError as error:
            raise Unavailable("the ledger is closed") from error
        return await asyncio.shield(asyncio.wrap_future(done))

    def _drain(self) -> None:
        batch: list[_Job] = []
        while self._waiting and len(batch) < _LARGEST_BATCH:
            batch.append(self._waiting.popleft())
        if not batch:
            return
        if len(batch) > 1 and self._commit(batch) is None:
            return
        for one in batch:  # one that fails does not fail those which came with it
            error = self._commit([one])
            if error is not None:
                one[1].set_exception(error)

    def _commit(self, batch: Sequence[_Job]) -> Exception | None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results = [job(self._connection) for job, _ in batch]
            self._connection.execute("COMMIT")
        except Exception as error:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            return _ours(error)
        for (_, done), result in zip(batch, results, strict=True):
            done.set_result(result)
        return None

    def _close(self) -> None:
        while self._waiting:
            self._drain()
        self._connection.close()


class Space:
    """A durable dictionary: what `put` or `delete` has returned from survives a power cut."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._name = name

    async def put(self, key: str, value: bytes) -> None:
        await self.put_many({key: value})

    async def put_many(self, rows: Mapping[str, bytes]) -> None:
        """Put all of these, or none."""
        values = [(self._name, key, value) for key, value in rows.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO ledger (space, key, value) VALUES (?, ?, ?)", values)

        await self._ledger.run(write)

    async def delete(self, key: str) -> None:
        """Delete this key; one that is not there is no error."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM ledger WHERE space = ? AND key = ?", (self._name, key))

        await self._ledger.run(write)

    async def items(self) -> Sequence[tuple[str, bytes]]:
        """All rows, in the order of their keys."""

        def read(connection: sqlite3.Connection) -> list[tuple[str, bytes]]:
            rows = connection.execute("SELECT key, value FROM ledger WHERE space = ? ORDER BY key", (self._name,))
            return rows.fetchall()

        return await self._ledger.run(read)


def _ours(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    ours: MulticriError
    if (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF == sqlite3.SQLITE_FULL:
        ours = ResourceExhausted(f"the ledger's disk is full: {error}")
    else:
        ours = Unavailable(f"the ledger cannot be used: {error}")
    ours.__cause__ = error
    return ours


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise FailedPrecondition(f"the ledger's directory {directory} cannot be made: {error.strerror}") from error
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise FailedPrecondition(
            f"others may write to the ledger's directory {directory} "
            f"(owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}): chown it to this user, chmod 0700"
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file beside the ledger: SQLite's own locks would let a second process in between two writes."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FailedPrecondition(f"the ledger's lock {lock} cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise FailedPrecondition(f"the ledger {path} is in use by another process (pid {holder})") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    _make_private(path)
    # The one thread of the executor is the only one that ever sees the connection.
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _make_table(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise FailedPrecondition(f"{path} cannot be opened as a ledger: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _make_table(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise FailedPrecondition(
            f"the ledger {path} was written by a newer multicri-proxy (schema {version}, this one knows {SCHEMA}): "
            "run that version, or set the file aside"
        )
    if version == 0:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE ledger (space TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, "
            "PRIMARY KEY (space, key)) WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")


def _make_private(path: Path) -> None:
    """Make the file if there is none, before SQLite does with a mode of its own, and check one that is there."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FailedPrecondition(f"the ledger {path} cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise FailedPrecondition(f"the ledger {path} is not a file")
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise FailedPrecondition(
            f"the ledger {path} is open to others (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}): "
            "chown it to this user, chmod 0600"
        )
