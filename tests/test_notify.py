"""What systemd is told."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from multicri_proxy.notify import Systemd


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        yield listening


def told(systemd: socket.socket, **environment: str) -> Systemd:
    return Systemd.from_environment({"NOTIFY_SOCKET": systemd.getsockname(), **environment})


def test_readiness_and_the_end_are_told(systemd: socket.socket) -> None:
    told(systemd).ready("serving /run/multicri.sock")
    assert systemd.recv(100) == b"READY=1\nSTATUS=serving /run/multicri.sock"
    told(systemd).stopping()
    assert systemd.recv(100) == b"STOPPING=1"


async def test_the_watchdog_gets_a_sign_more_often_than_it_asks_for(systemd: socket.socket) -> None:
    awake = asyncio.ensure_future(told(systemd, WATCHDOG_USEC="100000").keep_awake())
    assert [await asyncio.to_thread(systemd.recv, 100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    awake.cancel()


async def test_a_watchdog_for_another_process_gets_none(systemd: socket.socket) -> None:
    await told(systemd, WATCHDOG_USEC="100000", WATCHDOG_PID=str(os.getpid() + 1)).keep_awake()
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(100)


def test_without_systemd_or_with_one_that_is_deaf_nothing_happens(tmp_path: Path) -> None:
    Systemd.from_environment({}).ready("")
    Systemd(address=str(tmp_path / "nobody")).ready("")
