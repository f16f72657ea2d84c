"""The bytes of an SPDY connection as binary messages of a WebSocket, which is how today's kubectl forwards ports.

Source: Kubernetes' KEP-4006, subprotocol ``SPDY/3.1+portforward.k8s.io``.
"""

from contextlib import AbstractAsyncContextManager, suppress

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from multicri_proxy.streaming.spdy import ProtocolError
from multicri_proxy.streaming.wire import Wire


class Tunnel:
    """To be used as a `Wire` is."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._protocol = Connection(ConnectionType.SERVER)
        self._closed = False

    async def receive(self) -> bytes:
        """Raises ProtocolError if what comes are no binary messages."""
        received = b""
        while not received and not self._closed:
            data = await self._wire.receive()
            if not data:
                break
            self._protocol.receive_data(data)
            received = b"".join(self._taken())
        return received

    def put(self, data: bytes) -> None:
        with suppress(LocalProtocolError):  # closed by now
            self._wire.put(self._protocol.send(BytesMessage(data=data)))

    def turn(self) -> AbstractAsyncContextManager[None]:
        return self._wire.turn()

    async def finish(self) -> None:
        self._close()
        await self._wire.finish()

    def _taken(self) -> list[bytes]:
        pieces = []
        for event in self._protocol.events():
            match event:
                case BytesMessage():
                    pieces.append(bytes(event.data))
                case TextMessage():
                    raise ProtocolError("a text message where SPDY is due")
                case Ping():
                    self._wire.put(self._protocol.send(event.response()))
                case CloseConnection():
                    if self._protocol.state is ConnectionState.OPEN:  # nobody has closed: these are no messages
                        raise ProtocolError(event.reason or "unreadable")
                    self._closed = True
                    self._close()
        return pieces

    def _close(self) -> None:
        with suppress(LocalProtocolError):
            self._wire.put(self._protocol.send(CloseConnection(code=CloseReason.NORMAL_CLOSURE)))
