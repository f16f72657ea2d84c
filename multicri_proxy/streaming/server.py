"""Where the clients of exec, attach and port-forward come: URLs with a single-use token, on a port of the node.

Nothing listens, and nothing of what speaks with clients is loaded, before the first URL is asked for.
"""

import asyncio
import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.log import Log
from multicri_proxy.streaming.requests import Request
from multicri_proxy.streaming.tokens import Tokens

if TYPE_CHECKING:
    import ssl

log = Log("streaming")

_BACKLOG = 256
_READ_BYTES = 32 * 1024
_MOST_LINES, _LINES_S = 10, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """request_s: from a connection's begin to its whole request. creation_s: until all of its streams are there.

    idle_s: without a byte in either direction. linger_s: for a client to leave after all is said.
    The kubelet's own are the defaults of creation_s and idle_s.
    """

    request_s: float = 10.0
    creation_s: float = 30.0
    idle_s: float = 4 * 3600.0
    linger_s: float = 10.0
    connections: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files; without them a certificate is made at the start, with which the kubelet is content."""

    certificate: Path | None = None
    key: Path | None = None


class StreamingServer:
    """address: an IP. port: 0 for any free one. Serves from the first `url` on, while it is entered."""

    def __init__(
        self, *, address: str = "127.0.0.1", port: int = 10010, tls: Tls | None = None, limits: Limits | None = None
    ) -> None:
        self._address = address
        self._port = port
        self._tls = tls
        self._limits = limits or Limits()
        self._tokens = Tokens[Request]()
        self._refusals = _Refusals()
        self._listening = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def url(self, request: Request) -> str:
        """Where a client may have this done, once and within a minute.

        Raises Unavailable if we cannot listen, ResourceExhausted if too many such URLs are out.
        """
        port = await self._listen()
        address = ipaddress.ip_address(self._address)
        host = "127.0.0.1" if address.version == 4 else "::1"
        if not address.is_unspecified:
            host = str(address)
        if address.version == 6:
            host = f"[{host}]"
        return f"http{'s' * bool(self._tls)}://{host}:{port}/{request.what}/{self._tokens.give(request)}"

    async def _listen(self) -> int:
        """The port on which we do."""
        async with self._listening:
            if self._server is None:
                try:
                    self._server = await asyncio.start_server(
                        self._serve,
                        self._address,
                        self._port,
                        limit=_READ_BYTES,
                        backlog=_BACKLOG,
                        ssl=await self._context(),
                        **({"ssl_handshake_timeout": self._limits.request_s} if self._tls else {}),
                    )
                except OSError as error:
                    where = f"{self._address}, port {self._port}"
                    raise Unavailable(
                        f"cannot listen on {where} for exec, attach and port-forward: {error}; "
                        "set stream_addr and stream_port"
                    ) from error
                log.info("listening for exec, attach and port-forward", address=self._address, port=self._port)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _context(self) -> "ssl.SSLContext | None":
        if self._tls is None:
            return None
        from multicri_proxy.streaming.tls import server_context  # noqa: PLC0415  (cryptography)

        return await asyncio.to_thread(server_context, self._tls.certificate, self._tls.key, self._address)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (asyncio.start_server makes one)
        task.set_name("serve a stream client")
        self._tasks.add(task)
        try:
            if len(self._tasks) > self._limits.connections:
                self._refusals.say(f"{self._limits.connections} stream clients are connected already")
                return
            from multicri_proxy.streaming.client import serve  # noqa: PLC0415  (h11, wsproto)

            refusal = await serve(reader, writer, self._tokens, self._limits)
            if refusal:
                self._refusals.say(refusal)
        except asyncio.CancelledError:
            writer.transport.abort()  # we leave, and nobody awaits this task
        except Exception as error:
            log.defect("a stream client was served in a way that it should not", error)
        finally:
            await self._close(writer)
            self._tasks.discard(task)

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        """Let the last bytes go out, if the client takes them."""
        writer.close()
        with suppress(OSError, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(self._limits.linger_s):
                await writer.wait_closed()
        writer.transport.abort()


class _Refusals:
    """Says why clients were refused, but not as often as they may want."""

    def __init__(self) -> None:
        self._since_s = float("-inf")
        self._lines = 0

    def say(self, reason: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._since_s > _LINES_S:
            if self._lines > _MOST_LINES:
                log.warning("more stream clients were refused", number=self._lines - _MOST_LINES)
            self._since_s, self._lines = now_s, 0
        self._lines += 1
        if self._lines <= _MOST_LINES:
            log.warning("a stream client was refused", reason=reason)
