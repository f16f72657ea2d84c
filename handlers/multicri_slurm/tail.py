"""How far the output of containers has come: one look at the files of a whole login, whoever waits for them.

A login host is asked one thing a moment, however many containers it has; only what has grown is read.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import MulticriError
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_slurm.retries import within
from multicri_slurm.verbs import ClusterVerbs, Lengths

LOOK_S, QUEUED_LOOK_S, LINGER_S = 0.5, 2.0, 10.0
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 15.0
READS_AT_ONCE = 4
PIECES_BYTES, LARGEST_PIECE_BYTES, SMALLEST_PIECE_BYTES = 4 * 1024 * 1024, 64 * 1024, 16 * 1024

_log = Log("slurm.tail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A container's files at one moment. sizes: of each stream that is there. exited: has its exit file come?"""

    sizes: dict[OutputStream, int]
    exited: bool


class Tail:
    """Looks at the files of one login's containers, as long as somebody follows one."""

    def __init__(self, cluster: ClusterVerbs) -> None:
        self._cluster = cluster
        self._directories: Counter[str] = Counter()
        self._waiting: list[asyncio.Future[None]] = []
        self._seen: dict[str, Seen] = {}
        self._asked = asyncio.Event()
        self._at_once = asyncio.Event()
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    @contextmanager
    def following(self, directory: str) -> Iterator[None]:
        """Look at this container's directory, until the block is left."""
        self._directories[directory] += 1
        try:
            yield
        finally:
            self._directories[directory] -= 1
            self._directories += Counter()  # without those that nobody follows

    async def look(self, directory: str, *, at_once: bool) -> Seen:
        """What a look that begins from now on finds. While the login host is silent, this waits.

        at_once: not when the next look is due.
        """
        looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(looked)
        self._asked.set()
        if at_once:
            self._at_once.set()
        await looked
        return self._seen.get(directory) or Seen(sizes={}, exited=False)

    async def read(self, path: str, offset: int, size: int) -> bytes:
        """The next piece of a file; empty if it is gone. All that are read at a time fit into a few MiB."""
        share = PIECES_BYTES // max(1, len(self._directories))
        piece_bytes = min(size - offset, LARGEST_PIECE_BYTES, max(SMALLEST_PIECE_BYTES, share))
        async with self._reads:
            return await self._cluster.read_piece(path, offset, piece_bytes) or b""

    async def run(self) -> None:
        """Look, whenever somebody waits for it. Ends when nobody has followed anything for a while."""
        retry_s = FIRST_RETRY_S
        while self._directories or await within(self._asked, LINGER_S):
            try:
                async with self._cluster.sizes() as sizes:
                    while self._directories or await within(self._asked, LINGER_S):
                        await self._look(sizes)
                        if retry_s > FIRST_RETRY_S:
                            _log.info("output is read again", account=self._cluster.login.account)
                            retry_s = FIRST_RETRY_S
            except Exception as error:  # a tail that ends would leave its followers waiting for ever
                if retry_s == FIRST_RETRY_S:
                    self._say(error)
                await asyncio.sleep(retry_s)
                retry_s = min(LAST_RETRY_S, retry_s * 2)

    def _say(self, error: Exception) -> None:
        account, message = self._cluster.login.account, "output cannot be read for now"
        if isinstance(error, MulticriError):
            _log.warning(message, account=account, reason=error)
        else:
            _log.defect(message, error, account=account)

    async def _look(self, sizes: Lengths) -> None:
        if not await within(self._asked, LINGER_S):
            return
        self._asked.clear()
        self._at_once.clear()
        waiting, self._waiting = self._waiting, []
        directories = tuple(self._directories)
        names = [*(stream.value for stream in OutputStream), "exit"]
        try:
            found = await sizes.of(tuple(f"{directory}/{name}" for directory in directories for name in names))
        except BaseException:
            self._waiting += waiting
            self._asked.set()
            raise
        self._seen = {
            directory: Seen(
                sizes={s: found[path] for s in OutputStream if (path := f"{directory}/{s.value}") in found},
                exited=f"{directory}/exit" in found,
            )
            for directory in directories
        }
        for looked in waiting:
            if not looked.done():
                looked.set_result(None)
        runs = any(seen.sizes and not seen.exited for seen in self._seen.values())
        await within(self._at_once, LOOK_S if runs else QUEUED_LOOK_S)


class Tails:
    """The tails, by login; each runs while it is needed."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._tails: dict[str, Tail] = {}

    def of(self, cluster: ClusterVerbs) -> Tail:
        digest = cluster.login.digest()
        if (tail := self._tails.get(digest)) is None:
            tail = self._tails[digest] = Tail(cluster)
            self._tasks.start(f"look at the output of {cluster.login.account}", partial(self._run, digest, tail))
        return tail

    async def _run(self, digest: str, tail: Tail) -> None:
        try:
            await tail.run()
        finally:
            del self._tails[digest]
