"""``multicri-proxy serve`` as a process of its own, to be killed and started again."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from kubelet.client import ask

_START_TIMEOUT_S = 30.0


@dataclass
class Proxy:
    """directory: for its socket, records, key and log. config: its configuration file."""

    directory: Path
    config: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> Path:
        return self.directory / "multicri.sock"

    @property
    def log(self) -> Path:
        return self.directory / "multicri-proxy.log"

    @property
    def argv(self) -> list[str]:
        return [
            *(sys.executable, "-m", "multicri_proxy", "serve", "--config", str(self.config)),
            *("--socket-path", str(self.socket_path), "--root-dir", str(self.directory / "root")),
            *("--resources-cache-path", str(self.directory / "resources"), "--log-level", "debug"),
        ]

    async def start(self) -> None:
        """Returns when it answers. Raises RuntimeError with its log if it does not."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log, env=os.environ | dict(self.environment))
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not await self._answers():
                    if (status := self.process.poll()) is not None:
                        self.process = None
                        raise RuntimeError(f"exit status {status}: {self.log.read_text()}")
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            self.kill()
            raise RuntimeError(f"no answer: {self.log.read_text()}") from error

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process:
            self.process.send_signal(how)
            self.process.wait(_START_TIMEOUT_S)
            self.process = None

    async def _answers(self) -> bool:
        """Any answer will do: the runtime behind it may be down."""
        if not self.socket_path.is_socket():
            return False
        async with grpc.aio.insecure_channel(f"unix:{self.socket_path}") as channel:
            try:
                await ask(channel, "/runtime.v1.RuntimeService/Version", b"", timeout_s=2)
            except grpc.aio.AioRpcError as error:
                return error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        return True
