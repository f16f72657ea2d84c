"""A pod's ports, in its namespace: who connects there is joined with the job.

A port listens only while the job's port answers, as far as that is known: a TCP probe sees what it would see of a pod
that runs here. What is accepted and then cannot be passed on is reset, and the port listens no more until the job's
port answers again.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial

from multicri_proxy.api.errors import MulticriError, Unavailable
from multicri_proxy.api.ids import PodSandboxId
from multicri_proxy.api.log import Log
from multicri_proxy.api.streams import Connection
from multicri_proxy.api.tasks import Tasks

log = Log("network")

Connect = Callable[[PodSandboxId, int], AbstractAsyncContextManager[Connection]]
"""`CanForward.connect`, which raises a MulticriError also while the job does not run."""

_PIECE_BYTES = 32 * 1024
_BACKLOG = 128
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for which close(2) sends RST. Source: socket(7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """connections: of one pod at once. connect_s: for the job to answer.

    ask_s: between the first two questions whether a port answers, and at most between any two.
    asked: how many ports of all pods are asked at once. idle_s: without a byte.
    linger_s: for a client to go after the job has closed its half.
    """

    connections: int = 256
    connect_s: float = 20.0
    ask_s: tuple[float, float] = (0.25, 5.0)
    asked: int = 16
    idle_s: float = 4 * 3600.0
    linger_s: float = 60.0


class Forwarder:
    """The ports of one pod, from its making to `close`. It owns the sockets, which are bound.

    turns: limits how many ports are asked at once.
    """

    def __init__(
        self,
        sandbox_id: PodSandboxId,
        sockets: Mapping[int, socket.socket],
        *,
        connect: Connect,
        tasks: Tasks,
        turns: asyncio.Semaphore,
        limits: Limits,
    ) -> None:
        self._sandbox_id = sandbox_id
        self._sockets = sockets
        self._connect = connect
        self._tasks = tasks
        self._turns = turns
        self._limits = limits
        self._ports: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.Task[None]] = set()
        for port in sockets:
            self._start(self._ports, f"port {port} of {sandbox_id}", partial(self._serve, port))

    async def close(self) -> None:
        """End every connection; nothing of ours holds the namespace after this."""
        running = self._ports | self._clients
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for listener in self._sockets.values():
            listener.close()

    def _start(
        self, among: set[asyncio.Task[None]], name: str, work: Callable[[], Coroutine[object, object, None]]
    ) -> asyncio.Task[None]:
        task = self._tasks.start(name, work)
        among.add(task)
        task.add_done_callback(among.discard)
        return task

    async def _serve(self, port: int) -> None:
        while True:
            await self._answers(port)
            await self._listen(port)

    async def _answers(self, port: int) -> None:
        """Wait until the job's port answers."""
        pause_s, longest_s = self._limits.ask_s
        while True:
            try:
                async with (
                    self._turns,
                    asyncio.timeout(self._limits.connect_s),
                    self._connect(self._sandbox_id, port),
                ):
                    return
            except (TimeoutError, MulticriError) as error:
                log.debug("a port does not answer", sandbox_id=self._sandbox_id, port=port, error=error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    async def _listen(self, port: int) -> None:
        """Accept until a connection cannot be passed on."""
        loop, listener, lost = asyncio.get_running_loop(), self._sockets[port], asyncio.Event()
        listener.listen(_BACKLOG)
        loop.add_reader(listener, self._accept, port, lost)
        try:
            await lost.wait()
        finally:
            loop.remove_reader(listener)
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # it stays bound, and may listen again: Linux alone has it so

    def _accept(self, port: int, lost: asyncio.Event) -> None:
        try:
            client, _ = self._sockets[port].accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("a connection cannot be accepted", sandbox_id=self._sandbox_id, port=port, error=error)
            lost.set()
            return
        client.setblocking(False)
        if len(self._clients) >= self._limits.connections:
            _reset(client)
            return
        task = self._start(self._clients, f"client of port {port}", partial(self._client, client, port, lost))
        task.add_done_callback(lambda _: client.close())  # also if it is cancelled before its first step

    async def _client(self, client: socket.socket, port: int, lost: asyncio.Event) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._limits.connect_s):
                    pod = await stack.enter_async_context(self._connect(self._sandbox_id, port))
            except (TimeoutError, MulticriError) as error:
                log.debug("a port answers no more", sandbox_id=self._sandbox_id, port=port, error=error)
                lost.set()
                _reset(client)
                return
            await self._join(client, pod)

    async def _join(self, client: socket.socket, pod: Connection) -> None:
        reader, writer = await asyncio.open_connection(sock=client, limit=_PIECE_BYTES)
        try:
            async with asyncio.timeout(self._limits.idle_s) as patience:
                await _both_ways(reader, writer, pod, patience, self._limits)
            writer.close()
            async with asyncio.timeout(self._limits.linger_s):
                await writer.wait_closed()
        except* (TimeoutError, Unavailable, OSError):
            with suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        finally:
            writer.transport.abort()


async def _both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    pod: Connection,
    patience: asyncio.Timeout,
    limits: Limits,
) -> None:
    """Until both sides have ended, or one is gone: then an ExceptionGroup. Each piece renews the patience."""
    loop = asyncio.get_running_loop()
    left_s = limits.idle_s

    def moved() -> None:
        patience.reschedule(loop.time() + left_s)

    async def send() -> None:
        while data := await reader.read(_PIECE_BYTES):
            moved()
            await pod.write(data)
        await pod.end()

    async def receive() -> None:
        nonlocal left_s
        while data := await pod.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()
            moved()
        writer.write_eof()
        left_s = limits.linger_s
        moved()

    async with asyncio.TaskGroup() as group:
        group.create_task(send(), name="send to a job's port")
        group.create_task(receive(), name="receive from a job's port")


def _reset(client: socket.socket) -> None:
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    client.close()
