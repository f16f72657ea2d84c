"""What an adapter that can execute, attach or forward ports is given to do it with. An adapter need not have any of it.

`multicri_proxy.streaming` speaks with the clients; an adapter sees readers and writers of bytes.
"""

from collections.abc import AsyncIterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from multicri_proxy.api.ids import ContainerId, PodSandboxId


class Reader(Protocol):
    """Bytes that come in. As long as nobody reads, whoever sends is held back."""

    async def read(self, max_bytes: int) -> bytes:
        """Some bytes, at most so many; none at the end: the other side has closed its half, and may still read.

        Raises Unavailable if the other side is gone.
        """
        ...


class Writer(Protocol):
    """Bytes that go out."""

    async def write(self, data: bytes) -> None:
        """Returns once there is room for more: a slow reader holds back. Raises Unavailable if it is gone."""
        ...


class Connection(Reader, Writer, Protocol):
    """Both directions, as of a TCP connection."""

    async def end(self) -> None:
        """No more will be written; the other side may still write."""
        ...


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """In characters. 0 by 0 is what a client without a terminal says."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """What a process is connected to; None: not wanted, as /dev/null.

    tty: it wants a terminal, which writes to stdout alone.
    sizes: of the client's terminal, at first and at each change; of several that nobody took the last one counts.
    """

    stdin: Reader | None = None
    stdout: Writer | None = None
    stderr: Writer | None = None
    tty: bool = False
    sizes: AsyncIterable[TerminalSize] | None = None


@runtime_checkable
class CanExec(Protocol):
    """An adapter that can run a further process in a container."""

    async def exec(self, container_id: ContainerId, command: Sequence[str], streams: Streams) -> int:
        """Run a command in a running container; return its exit code once all of its output is written.

        128 + n for signal n. Cancelled, because the client left or time is up: kill what was started, then leave.
        Reads stdin as the process does, and gives it the end of it. Ends none of the streams.
        Raises Unavailable if the container cannot be reached, FailedPrecondition if it does not run yet.
        """
        ...


@runtime_checkable
class CanAttach(Protocol):
    """An adapter that can connect a client to a container's own process."""

    async def attach(self, container_id: ContainerId, streams: Streams) -> None:
        """Copy the container's output from now on, and feed its stdin, until it exits. Cancelled: it goes on."""
        ...


@runtime_checkable
class CanForward(Protocol):
    """An adapter that can reach the ports of a pod."""

    def connect(self, sandbox_id: PodSandboxId, port: int) -> AbstractAsyncContextManager[Connection]:
        """A connection to a TCP port of the pod, from entering to leaving. port: 1 to 65535.

        Raises Unavailable, on entering, if nobody listens there or the pod cannot be reached.
        """
        ...
