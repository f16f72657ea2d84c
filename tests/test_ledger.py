"""The ledger, on real files."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multicri_proxy.api.errors import FailedPrecondition, ResourceExhausted, Unavailable
from multicri_proxy.ledger import SCHEMA, Ledger

WRITER = """
import asyncio, sys
from pathlib import Path
from multicri_proxy.ledger import Ledger

async def main():
    async with Ledger.open(Path(sys.argv[1])) as ledger:
        async def write(space, row):
            await space.put(str(row), b"value of %d" % row)
            print(row, flush=True)
        space, row = ledger.space("rows"), 0
        while True:
            await asyncio.gather(*(write(space, row + one) for one in range(7)))
            row += 7

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


async def test_what_was_put_is_there_after_reopening(path: Path) -> None:
    async with Ledger.open(path) as ledger:
        await ledger.space("a").put("key", b"\x00\xffvalue")
        await ledger.space("a").put("other", b"")
    async with Ledger.open(path) as ledger:
        assert await ledger.space("a").items() == [("key", b"\x00\xffvalue"), ("other", b"")]


async def test_spaces_do_not_see_each_other(path: Path) -> None:
    async with Ledger.open(path) as ledger:
        await ledger.space("a").put("key", b"1")
        await ledger.space("b").put("key", b"2")
        await ledger.space("a").delete("key")
        assert await ledger.space("a").items() == []
        assert await ledger.space("b").items() == [("key", b"2")]


async def test_deleting_what_is_not_there_succeeds(path: Path) -> None:
    async with Ledger.open(path) as ledger:
        await ledger.space("a").delete("nothing")


async def test_every_printed_row_is_there_after_kill_9(path: Path) -> None:
    for _ in range(3):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        printed += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        async with Ledger.open(path) as ledger:
            rows = dict(await ledger.space("rows").items())
        for line in printed:
            if line.endswith(b"\n"):
                assert rows[line.decode().strip()] == b"value of %d" % int(line)


async def test_a_second_process_is_refused_with_the_pid_of_the_first(path: Path) -> None:
    async with Ledger.open(path):
        second = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", WRITER, str(path)], capture_output=True, text=True, check=False
        )
    assert second.returncode != 0
    assert f"is in use by another process (pid {os.getpid()})" in second.stderr


async def test_files_and_directory_are_closed_to_others(path: Path) -> None:
    async with Ledger.open(path) as ledger:
        await ledger.space("a").put("key", b"value")
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


async def test_a_file_that_others_can_read_is_refused(path: Path) -> None:
    async with Ledger.open(path):
        pass
    path.chmod(0o644)
    with pytest.raises(FailedPrecondition, match=r"ledger\.sqlite is open to others .*chmod 0600"):
        async with Ledger.open(path):
            pass


async def test_a_directory_that_others_can_write_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(FailedPrecondition, match=r"others may write .*chmod 0700"):
        async with Ledger.open(path):
            pass


async def test_a_link_in_place_of_the_file_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FailedPrecondition, match="cannot be opened"):
        async with Ledger.open(path):
            pass
    assert not (tmp_path / "elsewhere").exists()


async def test_a_newer_schema_is_refused(path: Path) -> None:
    async with Ledger.open(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()
    with pytest.raises(FailedPrecondition, match=f"schema {SCHEMA + 1}, this one knows {SCHEMA}"):
        async with Ledger.open(path):
            pass


async def test_a_file_that_is_no_ledger_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"this is no database, but long enough to be taken for one" * 100)
    path.chmod(0o600)
    with pytest.raises(FailedPrecondition, match="cannot be opened as a ledger"):
        async with Ledger.open(path):
            pass


async def test_a_write_whose_caller_was_cancelled_is_done(path: Path) -> None:
    async with Ledger.open(path) as ledger, asyncio.TaskGroup() as group:
        release = await _hold(ledger, group)
        write = group.create_task(ledger.space("a").put("key", b"value"))
        await asyncio.sleep(0)
        write.cancel()
        release()
        assert await ledger.space("a").items() == [("key", b"value")]
        assert write.cancelled()


async def test_a_slow_disk_does_not_stop_the_event_loop(path: Path) -> None:
    async with Ledger.open(path) as ledger, asyncio.TaskGroup() as group:
        release = await _hold(ledger, group)
        write = group.create_task(ledger.space("a").put("key", b"value"))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not write.done()
        release()


async def test_a_write_that_fails_does_not_fail_those_that_came_with_it(path: Path) -> None:
    async with Ledger.open(path) as ledger, asyncio.TaskGroup() as group:
        release = await _hold(ledger, group)
        good = [group.create_task(ledger.space("a").put(str(key), b"value")) for key in range(3)]
        bad = group.create_task(_failing(ledger.space("a").put("\udc00", b"no text in any encoding")))
        release()
        assert isinstance(await bad, UnicodeEncodeError)
        await asyncio.gather(*good)
        assert [key for key, _ in await ledger.space("a").items()] == ["0", "1", "2"]


async def test_a_full_disk_is_resource_exhausted_and_changes_nothing(path: Path) -> None:
    async with Ledger.open(path) as ledger:
        await ledger.space("a").put("key", b"before")
        pages = await ledger.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
        await ledger.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        with pytest.raises(ResourceExhausted) as caught:
            await ledger.space("a").put_many({"key": b"after", "large": bytes(1 << 20)})
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        assert await ledger.space("a").items() == [("key", b"before")]


async def test_any_other_error_of_the_database_is_unavailable(path: Path) -> None:
    async with Ledger.open(path) as ledger:
        await ledger.run(lambda connection: connection.execute("DROP TABLE ledger").fetchone())
        with pytest.raises(Unavailable):
            await ledger.space("a").put("key", b"value")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=2), st.none() | st.binary(max_size=8))))
async def test_a_space_behaves_as_a_dictionary(tmp_path: Path, changes: list[tuple[str, bytes | None]]) -> None:
    path = tmp_path / "property" / "ledger.sqlite"
    model: dict[str, bytes] = {}
    async with Ledger.open(path) as ledger:
        space = ledger.space("a")
        for key, _ in await space.items():
            await space.delete(key)
        for key, value in changes:
            if value is None:
                model.pop(key, None)
                await space.delete(key)
            else:
                model[key] = value
                await space.put(key, value)
        assert dict(await space.items()) == model
    async with Ledger.open(path) as ledger:
        assert dict(await ledger.space("a").items()) == model


async def _hold(ledger: Ledger, group: asyncio.TaskGroup) -> Callable[[], None]:
    """Have the ledger's thread stand still, until what is returned is called."""
    begun, release = threading.Event(), threading.Event()

    def wait(_: sqlite3.Connection) -> None:
        begun.set()
        release.wait()

    group.create_task(ledger.run(wait))
    await asyncio.to_thread(begun.wait)
    return release.set


async def _failing(work: object) -> BaseException | None:
    try:
        await work  # type: ignore[misc]
    except Exception as error:
        return error
    return None
