"""A scripted runtime and a proxy before it, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from kubelet import Proxy

from load.clients import Client, connected
from load.vitals import Vitals, vitals


@dataclass
class ScriptedRuntime:
    """The process of `load.runtime`, to be killed and started again."""

    socket_path: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it serves."""
        tests = str(Path(__file__).parent.parent)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "load.runtime", str(self.socket_path)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": tests},
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        """kill -9."""
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None


def vitals_of(proxy: Proxy) -> Vitals:
    assert proxy.process
    return vitals(proxy.process.pid)


@contextmanager
def running_client(socket_path: Path, flood_bytes: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process of `load.clients`; killed with SIGKILL at the end."""
    tests = str(Path(__file__).parent.parent)
    argv = [sys.executable, "-m", "load.clients", str(socket_path), str(flood_bytes)]
    with subprocess.Popen(argv, env=os.environ | {"PYTHONPATH": tests}) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[ScriptedRuntime]:
    runtime = ScriptedRuntime(tmp_path / "runtime.sock")
    runtime.start()
    yield runtime
    runtime.kill()


@pytest.fixture
async def direct(runtime: ScriptedRuntime) -> AsyncIterator[Client]:
    async with connected(runtime.socket_path) as client:
        yield client


@pytest.fixture
async def proxy(runtime: ScriptedRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    monkeypatch.delenv("MULTICRI_SOAK_S", raising=False)  # the proxy takes it for a setting
    config = tmp_path / "config.yaml"
    config.write_text(f"remote_runtime_endpoints:\n  default: {runtime.socket_path}\n")
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()
