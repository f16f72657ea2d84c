"""A container's output, read from the file that its supervisor writes."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from multicri_charliecloud.output import copied_output

MIB = 1 << 20


@pytest.fixture
def ended() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def test_what_is_long_copied_takes_no_room_and_the_rest_can_be_read_again(
    tmp_path: Path, ended: asyncio.Event
) -> None:
    path = tmp_path / "stdout"
    data = bytes(range(256)) * (4 * MIB // 256)
    path.write_bytes(data)
    before = path.stat().st_blocks
    async with aclosing(copied_output(path, 0, ended, kept_bytes=MIB)) as pieces:
        assert b"".join([piece async for piece in pieces]) == data
    assert path.stat().st_size == len(data)
    assert path.stat().st_blocks <= before // 2, "this file system gives nothing back"
    async with aclosing(copied_output(path, 3 * MIB, ended)) as pieces:
        assert b"".join([piece async for piece in pieces]) == data[3 * MIB :]


async def test_output_that_is_not_there_yet_is_none(tmp_path: Path, ended: asyncio.Event) -> None:
    async with aclosing(copied_output(tmp_path / "stdout", 0, ended)) as pieces:
        assert [piece async for piece in pieces] == []
