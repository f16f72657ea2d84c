"""The HTTP/1.1 request that begins every stream, and the change of protocol that answers it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import h11
from wsproto.utilities import generate_accept_token

from multicri_proxy.streaming.wire import Wire

_LONGEST_HEAD_BYTES = 16 * 1024
_LONGEST_BODY_BYTES = 1024
_STREAM_PROTOCOL = b"x-stream-protocol-version"
_ACCEPTED_PROTOCOLS = b"x-accepted-stream-protocol-versions"


class Transport(Enum):
    SPDY = b"SPDY/3.1"
    WEBSOCKET = b"websocket"


class Refused(Exception):
    """No stream comes of this request. status: HTTP's, as the client is told; 0 for none."""

    def __init__(self, status: int, reason: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """path: without its query. protocols: those that the client speaks, the best first. key: of a WebSocket."""

    path: str
    transport: Transport
    protocols: tuple[str, ...]
    key: bytes


class Upgrade:
    """One request on a new connection. `read` it, then either `accept` or `refuse` it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_LONGEST_HEAD_BYTES)

    @property
    def early(self) -> bytes:
        """What the client has sent after the request."""
        return self._http.trailing_data[0]

    async def read(self) -> Asked:
        """Raises Refused."""
        try:
            request = await self._event()
            if not isinstance(request, h11.Request):
                raise Refused(0, "the client left without a request")
            asked = _asked(request)
            body_bytes = 0
            while not isinstance(event := await self._event(), h11.EndOfMessage | h11.ConnectionClosed):
                body_bytes += len(event.data) if isinstance(event, h11.Data) else 0
                if body_bytes > _LONGEST_BODY_BYTES:
                    raise Refused(413, "a body where none is due")
        except h11.RemoteProtocolError as error:
            raise Refused(error.error_status_hint, f"no HTTP request: {error}") from error
        return asked

    async def accept(self, asked: Asked, protocol: str) -> None:
        """Change to the transport that was asked for. protocol: one of those, or empty if there was none."""
        headers = [(b"Connection", b"Upgrade"), (b"Upgrade", asked.transport.value)]
        if asked.transport is Transport.WEBSOCKET:
            headers.append((b"Sec-WebSocket-Accept", generate_accept_token(asked.key)))
        if protocol:
            name = b"Sec-WebSocket-Protocol" if asked.transport is Transport.WEBSOCKET else _STREAM_PROTOCOL
            headers.append((name, protocol.encode()))
        await self._send(h11.InformationalResponse(status_code=101, headers=headers, reason=b"Switching Protocols"))

    async def refuse(self, refused: Refused) -> None:
        """Say so, if the client can still be told."""
        if not refused.status or self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        text = refused.reason.encode("ascii", "replace") + b"\n"
        headers = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", str(len(text)).encode()),
            (b"Connection", b"close"),
            *refused.headers,
        ]
        await self._send(h11.Response(status_code=refused.status, headers=headers), h11.Data(data=text))

    async def _event(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._wire.receive())
        if event is h11.PAUSED or not isinstance(event, h11.Event):
            raise Refused(0, "the client has asked for nothing")
        return event

    async def _send(self, *events: h11.Event) -> None:
        async with self._wire.turn():
            for event in events:
                self._wire.put(self._http.send(event) or b"")


def protocol_error(accepted: Sequence[str]) -> Refused:
    """The client speaks none of these protocols."""
    headers = [(_ACCEPTED_PROTOCOLS, name.encode()) for name in accepted]
    return Refused(403, f"no protocol in common; spoken here: {', '.join(accepted)}", headers)


def _asked(request: h11.Request) -> Asked:
    if request.method not in (b"GET", b"POST"):
        raise Refused(405, "GET or POST is due", [(b"Allow", b"GET, POST")])
    if b"upgrade" not in _tokens(request, b"connection"):
        raise Refused(400, "Connection: Upgrade is due")
    upgrades = _tokens(request, b"upgrade")
    for transport in Transport:
        if transport.value.lower() in upgrades:
            break
    else:
        raise Refused(400, "Upgrade: SPDY/3.1 or websocket is due")
    names, key = _STREAM_PROTOCOL, b""
    if transport is Transport.WEBSOCKET:
        names = b"sec-websocket-protocol"
        key = next(iter(_values(request, b"sec-websocket-key")), b"")
        if request.method != b"GET" or not key:
            raise Refused(400, "a WebSocket wants GET and Sec-WebSocket-Key")
        if _values(request, b"sec-websocket-version") != [b"13"]:
            raise Refused(426, "Sec-WebSocket-Version: 13 is due", [(b"Sec-WebSocket-Version", b"13")])
    return Asked(
        path=request.target.decode("ascii", "replace").partition("?")[0],
        transport=transport,
        protocols=tuple(
            part.strip().decode("latin-1") for value in _values(request, names) for part in value.split(b",")
        ),
        key=key,
    )


def _values(request: h11.Request, name: bytes) -> list[bytes]:
    return [value for found, value in request.headers if found == name]


def _tokens(request: h11.Request, name: bytes) -> list[bytes]:
    return [part.strip().lower() for value in _values(request, name) for part in value.split(b",")]
