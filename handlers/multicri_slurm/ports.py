"""The ports of a pod: those of the node on which its job runs, over the kept SSH connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.streams import Connection
from multicri_slurm.running import Running
from multicri_slurm.sshlib import asyncssh

if TYPE_CHECKING:
    Reading = asyncssh.SSHReader[bytes]
    Writing = asyncssh.SSHWriter[bytes]


@asynccontextmanager
async def connected(running: Running, port: int) -> AsyncIterator[Connection]:
    """As CanForward.connect has it."""
    async with running.cluster.tcp(running.node, port) as (reader, writer):
        yield _Tcp(str(running), reader, writer)


class _Tcp:
    def __init__(self, name: str, reader: "Reading", writer: "Writing") -> None:
        self._name = name
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int) -> bytes:
        try:
            return await self._reader.read(max_bytes)
        except (OSError, asyncssh.Error) as error:
            raise Unavailable(f"{self._name}: the connection is lost") from error

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (OSError, asyncssh.Error) as error:
            raise Unavailable(f"{self._name}: the connection is lost") from error

    async def end(self) -> None:
        try:
            self._writer.write_eof()
        except OSError as error:
            raise Unavailable(f"{self._name}: the connection is lost") from error
