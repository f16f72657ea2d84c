"""What the bearer of a token may do."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from multicri_proxy.api.streams import Connection, Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCommand:
    """Exec or attach. run: with the client's streams; returns the exit code, 0 for an attach that ended.

    what: ``exec`` or ``attach``, the first part of the URL's path.
    """

    what: str
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool
    run: Callable[[Streams], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortForward:
    """connect: to one of the pod's ports. ports: those that were named; a client of WebSocket wants just these."""

    ports: tuple[int, ...]
    connect: Callable[[int], AbstractAsyncContextManager[Connection]]
    what: str = "portforward"


Request = RemoteCommand | PortForward
