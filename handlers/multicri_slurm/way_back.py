"""The way back: a job reaches what the admin allows of the node's network, by a SOCKS proxy on its own node.

The agent in the job accepts; all the rest is here, on the node: who it is, where to, and the connection.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from multicri_proxy.api.adapter import OutputStream, Phase
from multicri_proxy.api.board import Board
from multicri_proxy.api.errors import FailedPrecondition, MulticriError, NotFound, PermissionDenied, Unavailable
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_slurm import agent, socks
from multicri_slurm.agent_link import Command, Link
from multicri_slurm.agents import Agents
from multicri_slurm.destinations import Destination, allowed_address
from multicri_slurm.records import Record, Records, Stage
from multicri_slurm.retries import within
from multicri_slurm.running import RunningContainers

USER = "multicri"
FIRST_PORT, LAST_PORT = 20_000, 32_767  # below those that Linux gives to whoever asks for any
GREETING_TIMEOUT_S, CONNECT_TIMEOUT_S = 10.0, 20.0
IDLE_S = 4 * 3600.0
LINGER_S = 60.0  # for a client to go, after the server has
LOOK_S, RETRY_S = 2.0, 10.0
NOT_BY_IT = "localhost,127.0.0.1,::1"

_log = Log("slurm.way_back")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A container's SOCKS proxy: the port of its node's loopback, and what opens it."""

    port: int
    password: str

    @classmethod
    def new(cls) -> "Door":
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT + 1)
        return cls(port=port, password=secrets.token_hex(16))

    def variables(self, env: Mapping[str, bytes]) -> dict[str, bytes]:
        """For the container; its own come first."""
        url = f"socks5h://{USER}:{self.password}@127.0.0.1:{self.port}".encode()
        ours = {"ALL_PROXY": url, "all_proxy": url, "NO_PROXY": NOT_BY_IT.encode(), "no_proxy": NOT_BY_IT.encode()}
        return {name: value for name, value in ours.items() if name not in env}

    def to_bytes(self) -> bytes:
        return f"{self.port}:{self.password}".encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Door":
        port, _, password = data.decode().partition(":")
        return cls(port=int(port), password=password)


class WaysBack:
    """Those of all containers that have asked for one, from their beginning to their end."""

    def __init__(
        self, records: Records, board: Board, tasks: Tasks, running: RunningContainers, agents: Agents
    ) -> None:
        self._records = records
        self._board = board
        self._tasks = tasks
        self._running = running
        self._agents = agents
        self._served: set[ContainerId] = set()

    async def run(self) -> None:
        while True:
            for record in self._records.all():
                if record.way_back and self._runs(record) and record.container_id not in self._served:
                    self._served.add(record.container_id)
                    self._tasks.start(f"the way back of {record.container_id}", partial(self._serve, record))
            await asyncio.sleep(LOOK_S)

    def _runs(self, record: Record) -> bool:
        report = self._board.latest(record.container_id)
        return record.stage is Stage.SUBMITTED and report is not None and report.phase is Phase.RUNNING

    async def _serve(self, record: Record) -> None:
        complained = False
        try:
            while (now := self._records.get(record.container_id)) is not None and self._runs(now):
                try:
                    await self._serve_once(now)
                except MulticriError as error:
                    if not complained:
                        _log.warning("a job has no way back", container_id=record.container_id, reason=error)
                    complained = True
                await asyncio.sleep(RETRY_S)
        finally:
            self._served.discard(record.container_id)

    async def _serve_once(self, record: Record) -> None:
        running = self._running.of(record.container_id)
        door = Door.from_bytes(self._records.opened(record.way_back, record.container_id))
        async with self._agents.of(running) as link, Tasks() as tasks:
            if link is None:
                raise self._agents.why_none(running)
            destinations = running.cluster.settings.way_back
            if not destinations:
                raise FailedPrecondition("the setting way_back allows nothing any more")

            way = _Way(link=link, container_id=record.container_id, door=door, destinations=destinations)
            await link.listen(door.port, lambda client: _start(tasks, way, client))
            _log.info("a job has a way back", container_id=record.container_id, job_id=running.job_id)
            await link.over.wait()


def _start(tasks: Tasks, way: "_Way", client: Command) -> None:
    tasks.start("a connection of a job", partial(way.serve, client))


@dataclass(slots=True, kw_only=True)
class _Way:
    """One container's, while its agent lives. complained: a job may be refused often, and the log tells it once."""

    link: Link
    container_id: ContainerId
    door: Door
    destinations: Sequence[Destination]
    complained: bool = False

    async def serve(self, client: Command) -> None:
        async with self.link.serving(client):
            with suppress(EOFError, TimeoutError, Unavailable, OSError):
                async with asyncio.timeout(GREETING_TIMEOUT_S):
                    target = await socks.asked(_Client(client), USER, self.door.password)
                if target is not None:
                    await self._connect(client, target)
                client.end_input()
                await within(client.over, LINGER_S)

    async def _connect(self, client: Command, target: socks.Target) -> None:
        try:
            address = await allowed_address(self.destinations, target.host, target.port)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(address, target.port, limit=agent.LARGEST_PIECE_BYTES)
        except (MulticriError, OSError, TimeoutError) as error:
            self._complain(target, error)
            await socks.answer(_Client(client), _answer_to(error))
            return
        try:
            await socks.answer(_Client(client), socks.Answer.CONNECTED)
            await _both_ways(client, reader, writer)
        finally:
            writer.transport.abort()

    def _complain(self, target: socks.Target, error: Exception) -> None:
        if not self.complained:
            facts = {"container_id": self.container_id, "host": target.host, "port": target.port, "reason": error}
            _log.warning("a job cannot be connected", **facts)
        self.complained = True


def _answer_to(error: Exception) -> socks.Answer:
    match error:
        case PermissionDenied():
            return socks.Answer.FORBIDDEN
        case NotFound() | TimeoutError():
            return socks.Answer.UNREACHABLE
        case ConnectionRefusedError():
            return socks.Answer.REFUSED
        case _:
            return socks.Answer.FAILED


async def _both_ways(client: Command, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until both sides have ended, or one is gone, or nothing has moved for hours."""
    loop = asyncio.get_running_loop()

    async def send() -> None:
        while piece := await client.read(OutputStream.STDOUT, agent.LARGEST_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
            patience.reschedule(loop.time() + IDLE_S)
        writer.write_eof()

    async def receive() -> None:
        while piece := await reader.read(agent.LARGEST_PIECE_BYTES):
            await client.write(piece)
            patience.reschedule(loop.time() + IDLE_S)
        client.end_input()
        patience.reschedule(loop.time() + LINGER_S)

    with suppress(TimeoutError):
        async with asyncio.timeout(IDLE_S) as patience, Tasks() as tasks:
            await asyncio.gather(*(tasks.outcome("join a job with a server", way) for way in (send, receive)))


class _Client:
    """A connection, as its greeting is read: no byte more than that."""

    def __init__(self, connection: Command) -> None:
        self._connection = connection

    async def write(self, data: bytes) -> None:
        await self._connection.write(data)

    async def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await self._connection.read(OutputStream.STDOUT, size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data
