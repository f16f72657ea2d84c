"""CRI's calls for a process of one's own in a container, for a container's streams, and for a pod's ports."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from multicri_proxy.api.adapter import Phase
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, Unimplemented
from multicri_proxy.api.ids import PodSandboxId
from multicri_proxy.api.streams import CanAttach, CanExec, CanForward, Connection, Streams
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.calls import Calls
from multicri_proxy.runtime.late import itself
from multicri_proxy.runtime.pods import ContainerEntry, SandboxEntry
from multicri_proxy.runtime.records import ContainerState
from multicri_proxy.streaming.requests import PortForward, RemoteCommand

_MOST_OUTPUT_BYTES = 16 * 1024 * 1024 - 4096
"""Of both streams of ExecSync. CRI says 16 MB; the kubelet takes no larger message."""

_LARGEST_PORT = (1 << 16) - 1


class StreamCalls(Calls):
    """Exec, Attach and PortForward answer a URL, where the client is served; ExecSync waits for the end."""

    async def exec_sync(self, request: cri.ExecSyncRequest) -> cri.ExecSyncResponse:
        """Raises TimeoutError after the request's time limit, once what it started is killed. 0: no limit."""
        entry = self._running(request.container_id)
        command = _command(request.cmd)
        adapter = self._exec(entry)
        captured = _Captured(_MOST_OUTPUT_BYTES)
        stdout, stderr = captured.stream(), captured.stream()
        try:
            async with asyncio.timeout(request.timeout if request.timeout > 0 else None):
                exit_code = await adapter.exec(entry.record.id, command, Streams(stdout=stdout, stderr=stderr))
        except TimeoutError as error:
            raise TimeoutError(f"{command[0]!r} did not end within {request.timeout} s, and was killed") from error
        return cri.ExecSyncResponse(stdout=stdout.taken(), stderr=stderr.taken(), exit_code=exit_code)

    async def exec(self, request: cri.ExecRequest) -> cri.ExecResponse:
        entry = self._running(request.container_id)
        _check_streams(request)
        command = _command(request.cmd)
        self._exec(entry)

        async def run(streams: Streams) -> int:
            self._running(entry.record.id)
            return await self._exec(entry).exec(entry.record.id, command, streams)

        return cri.ExecResponse(url=await self._parts.streaming.url(_remote_command("exec", request, run)))

    async def attach(self, request: cri.AttachRequest) -> cri.AttachResponse:
        entry = self._running(request.container_id)
        _check_streams(request)
        adapter = itself(self._parts.adapter)
        if not isinstance(adapter, CanAttach):
            raise self._lacking("Attach", entry)

        async def run(streams: Streams) -> int:
            self._running(entry.record.id)
            await adapter.attach(entry.record.id, streams)
            return 0

        return cri.AttachResponse(url=await self._parts.streaming.url(_remote_command("attach", request, run)))

    async def port_forward(self, request: cri.PortForwardRequest) -> cri.PortForwardResponse:
        entry = self._parts.pods.sandbox(request.pod_sandbox_id)
        entry.must_be_ready()
        for index, port in enumerate(request.port):
            if not 0 < port <= _LARGEST_PORT:
                raise InvalidArgument(f"port[{index}]: {port} is no port; give 1 to {_LARGEST_PORT}")
        adapter = itself(self._parts.adapter)
        if not isinstance(adapter, CanForward):
            raise self._lacking("PortForward", entry)

        def connect(port: int) -> AbstractAsyncContextManager[Connection]:
            entry.must_be_ready()
            return adapter.connect(entry.record.id, port)

        forward = PortForward(ports=tuple(request.port), connect=connect)
        return cri.PortForwardResponse(url=await self._parts.streaming.url(forward))

    @asynccontextmanager
    async def reach(self, sandbox_id: PodSandboxId, port: int) -> AsyncIterator[Connection]:
        """A connection to a port of the pod, as `CanForward.connect`. Raises a MulticriError, also if nothing runs."""
        entry = self._parts.pods.sandbox(sandbox_id)
        entry.must_be_ready()
        if not any(_runs(container) for container in self._parts.pods.containers_of(entry.record.id)):
            raise FailedPrecondition(f"no container of sandbox {sandbox_id} runs")
        adapter = itself(self._parts.adapter)
        if not isinstance(adapter, CanForward):
            raise self._lacking("PortForward", entry)
        async with adapter.connect(entry.record.id, port) as connection:
            yield connection

    def _running(self, container_id: str) -> ContainerEntry:
        """Raises NotFound, or FailedPrecondition if it does not run, or waits for its turn."""
        entry = self._parts.pods.container(container_id)
        if entry.record.state is not ContainerState.RUNNING:
            raise FailedPrecondition(f"container {entry.record.id} is {entry.record.state.value}, not running")
        if entry.report and entry.report.phase is Phase.QUEUED:
            why = f" ({entry.report.reason})" if entry.report.reason else ""
            raise FailedPrecondition(f"container {entry.record.id} waits for its turn{why}: nothing can run in it yet")
        return entry

    def _exec(self, entry: ContainerEntry) -> CanExec:
        adapter = itself(self._parts.adapter)
        if not isinstance(adapter, CanExec):
            raise self._lacking("Exec", entry)
        return adapter

    def _lacking(self, what: str, entry: ContainerEntry | SandboxEntry) -> Unimplemented:
        return Unimplemented(
            f"{what} is not there for pods of the adapter {self._parts.adapter.name}, like {entry.record.id}"
        )


def _runs(entry: ContainerEntry) -> bool:
    """It does not wait for its turn, as far as is known."""
    is_queued = entry.report is None or entry.report.phase is Phase.QUEUED
    return entry.record.state is ContainerState.RUNNING and not is_queued


class _Captured:
    """What streams have said, all of them at most so many bytes: more is dropped, and no error."""

    def __init__(self, most_bytes: int) -> None:
        self.room_bytes = most_bytes

    def stream(self) -> "_CapturedStream":
        return _CapturedStream(self)


class _CapturedStream:
    def __init__(self, captured: _Captured) -> None:
        self._captured = captured
        self._data = bytearray()

    async def write(self, data: bytes) -> None:
        kept = data[: self._captured.room_bytes]
        self._captured.room_bytes -= len(kept)
        self._data += kept

    def taken(self) -> bytes:
        return bytes(self._data)


def _remote_command(
    what: str, request: cri.ExecRequest | cri.AttachRequest, run: Callable[[Streams], Awaitable[int]]
) -> RemoteCommand:
    return RemoteCommand(
        what=what, stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, tty=request.tty, run=run
    )


def _check_streams(request: cri.ExecRequest | cri.AttachRequest) -> None:
    """As CRI has it. Raises InvalidArgument."""
    if request.tty and request.stderr:
        raise InvalidArgument("tty and stderr: a terminal has one output; leave out stderr")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgument("stdin, stdout, stderr: at least one must be asked for")


def _command(texts: Iterable[str]) -> tuple[str, ...]:
    command = tuple(texts)
    if not command or not command[0]:
        raise InvalidArgument("cmd is empty")
    for index, text in enumerate(command):
        if "\0" in text:
            raise InvalidArgument(f"cmd[{index}] has a NUL byte")
    return command
