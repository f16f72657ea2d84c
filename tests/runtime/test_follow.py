"""Output on its way into log files: nothing is lost and nothing comes twice, whatever happens when."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.tasks import Tasks
from multicri_proxy.ledger import Ledger
from multicri_proxy.runtime.follow import ContainerLog, LogPositions
from multicri_proxy.runtime.logfile import LogFile
from multicri_proxy.runtime.records import LogPosition
from runtime.doubles import Cluster, MemoryAdapter
from runtime.test_logs import chunks, read_as_the_kubelet_does

CONTAINER = ContainerId("c" * 64)

# What happens next: so many bytes come, the way is cut, positions are saved, the kubelet rotates, the proxy is killed.
steps = st.lists(st.integers(1, 60) | st.just(20_000) | st.sampled_from(["cut", "save", "rotate", "kill"]), max_size=30)


class Scripted(MemoryAdapter):
    """Output that comes as the script says, and all at once when the script has ended."""

    def __init__(self, output: dict[OutputStream, bytes], script: Sequence[int | str]) -> None:
        super().__init__(Cluster())
        self._output = output
        self._script = list(script)
        self.place: Place | None = None

    async def output(self, container_id: ContainerId, stream: OutputStream, offset_bytes: int) -> AsyncIterator[bytes]:
        rest = self._output[stream][offset_bytes:]
        while rest:
            step = self._script.pop(0) if self._script else len(rest)
            if isinstance(step, int):
                chunk, rest = rest[:step], rest[step:]
                yield chunk
            elif step == "cut":
                raise Unavailable("connection lost")
            elif self.place:
                await self.place.happens(step)


class Place:
    """One life of a proxy, from one kill to the next."""

    def __init__(self, path: Path, log: ContainerLog, positions: LogPositions) -> None:
        self._path = path
        self._log = log
        self._positions = positions
        self._rotating = asyncio.Lock()
        self.killed = asyncio.Event()

    async def happens(self, step: str) -> None:
        match step:
            case "save":
                await self._positions.save_changed()
            case "rotate":
                async with self._rotating:  # one at a time, as the kubelet does
                    self._path.rename(self._path.with_name(f"0.log.{len(list(self._path.parent.iterdir())):04d}"))
                    await self._log.reopen()
            case "kill":
                self.killed.set()
                await asyncio.Event().wait()

    async def ended(self) -> bool:
        """Is everything copied? Else it was killed."""
        killed = asyncio.ensure_future(self.killed.wait())
        copied = asyncio.ensure_future(self._log.all_copied(60))
        await asyncio.wait([killed, copied], return_when=asyncio.FIRST_COMPLETED)
        for task in (killed, copied):
            task.cancel()
        return not self.killed.is_set()


@asynccontextmanager
async def _life(directory: Path, adapter: Scripted) -> AsyncIterator[Place]:
    """Follow until the end of the block, then vanish without saving anything."""
    with ThreadPoolExecutor(2) as threads:
        async with Ledger.open(directory / "ledger.sqlite") as ledger, Tasks() as tasks:
            positions = LogPositions(ledger.space("positions"), _no_pause)
            saved = await positions.load()
            file = LogFile(str(directory / "logs"), "main/0.log", saved.get(CONTAINER))
            log = ContainerLog(
                CONTAINER, file, adapter=adapter, positions=positions, tasks=tasks, threads=threads, pause=_no_pause
            )
            await log.open()
            place = adapter.place = Place(directory / "logs" / "main" / "0.log", log, positions)
            log.follow()
            yield place
            if place.killed.is_set():
                await log.stop()
            else:
                await positions.save_changed()


async def _no_pause(_: float) -> None:
    await asyncio.sleep(0)


@settings(max_examples=150)
@given(chunks.map(b"".join), chunks.map(b"".join), steps)
@example(b"a\nb\nc\nd", b"", [4, "save", 2, "kill", 2, "save", "rotate", 1, "kill"])
@example(b"a\nb\nc\nd", b"", [2, "rotate", 2, "kill"])
@example(b"\xcc", b"x" * 40_409, ["rotate", 20_000, "kill"])
async def test_every_byte_is_in_the_log_once_whatever_happens(
    stdout: bytes, stderr: bytes, script: list[int | str]
) -> None:
    wanted = {OutputStream.STDOUT: stdout, OutputStream.STDERR: stderr}
    adapter = Scripted(wanted, script)
    with TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o700)
        ended = False
        while not ended:
            async with _life(directory, adapter) as place:
                ended = await place.ended()
        printed = dict.fromkeys(OutputStream, b"")
        files = sorted((directory / "logs" / "main").iterdir(), key=lambda file: (file.name == "0.log", file.name))
        for file in files:
            for stream, text in read_as_the_kubelet_does(file.read_bytes()).items():
                printed[OutputStream(stream.decode())] += text
        assert printed == wanted


async def test_a_log_that_has_ended_is_not_followed_again(tmp_path: Path) -> None:
    adapter = Scripted({OutputStream.STDOUT: b"all\n", OutputStream.STDERR: b""}, [])
    tmp_path.chmod(0o700)
    for _ in range(2):
        async with _life(tmp_path, adapter) as place:
            assert await place.ended()
    assert read_as_the_kubelet_does((tmp_path / "logs" / "main" / "0.log").read_bytes())[b"stdout"] == b"all\n"


async def test_a_place_for_the_log_that_comes_late_loses_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "logs").touch()  # not a directory: opening the log fails
    adapter = Scripted({OutputStream.STDOUT: b"all\n", OutputStream.STDERR: b"of it\n"}, [])
    async with _life(tmp_path, adapter) as place:
        await asyncio.sleep(0)
        (tmp_path / "logs").unlink()
        assert await place.ended()
    text = read_as_the_kubelet_does((tmp_path / "logs" / "main" / "0.log").read_bytes())
    assert text == {b"stdout": b"all\n", b"stderr": b"of it\n"}


async def test_positions_that_cannot_be_saved_are_saved_later(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    async with Ledger.open(tmp_path / "ledger.sqlite") as ledger, Tasks() as tasks:
        paused = asyncio.Event()

        async def pause(_: float) -> None:
            paused.set()
            await asyncio.sleep(0)

        positions = LogPositions(ledger.space("positions"), pause)
        file = LogFile(str(tmp_path), "0.log", None)
        file.open()
        await ledger.run(lambda connection: connection.execute("ALTER TABLE ledger RENAME TO away").fetchone())
        tasks.start("save", positions.run)
        positions.changed(CONTAINER, file)
        await paused.wait()
        await ledger.run(lambda connection: connection.execute("ALTER TABLE away RENAME TO ledger").fetchone())
        saved: dict[str, LogPosition] = {}
        while not saved:
            saved = await positions.load()
        assert saved == {CONTAINER: file.position}
        assert saved[CONTAINER].inode == os.stat(tmp_path / "0.log").st_ino  # noqa: PTH116
        file.close()
