"""The daemon's own socket, for whoever administers it: one request a connection, lines of JSON both ways.

→ {"command": "dump", "rules": "full:.*"}
← {"ok": true}                      or {"error": "dump rule 'x:y': …"}, and the connection ends
← whatever the command sends, until one of the two leaves
"""

import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from multicri_proxy.api.errors import (
    FailedPrecondition,
    InvalidArgument,
    MulticriError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from multicri_proxy.api.log import Log
from multicri_proxy.api.places import SOCKET_DIRECTORY

log = Log("admin")

DEFAULT_SOCKET_PATH = str(SOCKET_DIRECTORY / "multicri-admin.sock")

_LONGEST_REQUEST_BYTES = 64 * 1024
_REQUEST_S = 5.0
_MOST_CONNECTIONS = 16
_RECEIVED_BYTES = 256 * 1024


class Connection:
    """A client whose request was understood."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def descriptor(self) -> int:
        """The socket's, to write lines to; the caller's own."""
        return os.dup(self._writer.get_extra_info("socket").fileno())

    def accept(self) -> None:
        """Say that the command is carried out, before any line of it. Does not wait: the socket is still empty."""
        os.write(self._writer.get_extra_info("socket").fileno(), _line({"ok": True}))

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a line. Raises ConnectionAbortedError if the client does not read."""
        try:
            await _say(self._writer, message)
        except TimeoutError:
            raise ConnectionAbortedError("the client does not read") from None

    async def until_left(self) -> None:
        """Wait for the client to leave; what it still says is not heard."""
        try:
            while await self._reader.read(_LONGEST_REQUEST_BYTES):
                pass
        except ConnectionError:
            return


Command = Callable[[Mapping[str, Any], Connection], Awaitable[None]]
"""Carries out a request: its fields, and who asks. Raises a MulticriError, before accepting, if it will not."""


class AdminServer:
    """Listens on a unix socket, mode 0600, from entering to leaving.

    Raises InvalidArgument if the path cannot be one of a socket, FailedPrecondition if somebody listens there.
    """

    def __init__(self, socket_path: Path, commands: Mapping[str, Command]) -> None:
        self._socket_path = socket_path
        self._commands = commands
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        listener = _listen(self._socket_path)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LONGEST_REQUEST_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None  # noqa: S101  (it was entered)
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket_path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (asyncio.start_unix_server makes one)
        task.set_name("serve an admin client")
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except ConnectionError:
            pass  # it left
        except asyncio.CancelledError:
            pass  # we leave, and nobody awaits this task
        except Exception as error:
            log.defect("an admin command failed in a way that it should not", error)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self._tasks.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _request(reader)
            if len(self._tasks) > _MOST_CONNECTIONS:
                raise ResourceExhausted(f"{_MOST_CONNECTIONS} admin clients are connected already")
            name = request.get("command")
            command = self._commands.get(name) if isinstance(name, str) else None
            if command is None:
                raise InvalidArgument(f"{name!r} is no admin command; there are: {', '.join(sorted(self._commands))}")
            await command(request, Connection(reader, writer))
        except MulticriError as error:
            await _say(writer, {"error": str(error)})


async def _request(reader: asyncio.StreamReader) -> Mapping[str, Any]:
    try:
        async with asyncio.timeout(_REQUEST_S):
            line = await reader.readline()
        request = json.loads(line)
    except TimeoutError:
        raise InvalidArgument(f"no request came within {_REQUEST_S:g} s") from None
    except (ValueError, RecursionError) as error:  # too long a line is one, too
        raise InvalidArgument(f"the request is no line of JSON below {_LONGEST_REQUEST_BYTES} bytes") from error
    if not isinstance(request, dict):
        raise InvalidArgument("the request is no JSON object")
    return request


async def _say(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    async with asyncio.timeout(_REQUEST_S):
        writer.write(_line(message))
        await writer.drain()


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _listen(path: Path) -> socket.socket:
    """A listening socket for us alone. What lies there is replaced if it is a socket that nobody listens on."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise FailedPrecondition(f"another process serves {path}: stop it or choose another admin socket")
    elif os.path.lexists(path):
        raise FailedPrecondition(f"{path} is there and is no socket: remove it or choose another admin socket")
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise InvalidArgument(f"cannot listen on {path}: {error}") from error
    finally:
        os.umask(umask)
    return listener


def ask(socket_path: Path, request: Mapping[str, Any], *, for_s: float | None = None) -> Iterator[bytes]:
    """For clients: make a request and yield the lines of the answer, for so many seconds or until the daemon ends it.

    The first line, b"", tells that the request was accepted. Blocks. Raises Unavailable if no daemon listens there,
    PermissionDenied if we may not ask, InvalidArgument if the daemon refuses.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_REQUEST_S)
        try:
            connection.connect(str(socket_path))
            connection.sendall(_line(request))
            received = _received(connection, for_s)
            head = json.loads(next(received, b"{}"))
        except PermissionError as error:
            raise PermissionDenied(f"{socket_path}: {error.strerror}") from error
        except (OSError, ValueError) as error:
            raise Unavailable(f"no multicri-proxy answers on {socket_path}: {error}") from error
        if "ok" not in head:
            raise InvalidArgument(str(head.get("error", f"{socket_path} closed the connection")))
        yield b""
        yield from received


def _received(connection: socket.socket, for_s: float | None) -> Iterator[bytes]:
    """Whole lines, without their ends. The time counts from the second line on."""
    rest, ends_at, accepted = b"", 0.0, False
    while True:
        try:
            data = connection.recv(_RECEIVED_BYTES)
        except TimeoutError:
            if not accepted:
                raise
            return
        except ConnectionError:
            return
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line
            if not accepted:
                accepted, ends_at = True, time.monotonic() + (for_s or 0.0)
        if accepted and for_s is None:
            connection.settimeout(None)
        elif accepted:
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                return
            connection.settimeout(left_s)
