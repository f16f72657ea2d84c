"""A client's WebSocket connection, its channels as readers and writers.

Each message begins with the number of its channel: a byte, or in the base64 protocols a digit, followed by base64.
Source: Kubernetes' wsstream package; KEP-4006 for v5, in which [255, channel] closes the client's half of a channel.
"""

import base64
import binascii
from collections.abc import Collection

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from multicri_proxy.streaming.inbox import Inbox
from multicri_proxy.streaming.spdy import ProtocolError
from multicri_proxy.streaming.wire import PIECE_BYTES, Wire

_CLOSE = 255
_ZERO = ord("0")
_LONGEST_BASE64 = 1 << 20


class Channel:
    """One number's messages in both directions."""

    def __init__(self, session: "WebSocketSession", number: int) -> None:
        self.inbox = Inbox()
        self._session = session
        self._number = number

    async def read(self, max_bytes: int) -> bytes:
        return await self.inbox.read(max_bytes)

    async def write(self, data: bytes) -> None:
        """No data is a message, too."""
        for start in range(0, len(data) or 1, PIECE_BYTES):
            await self._session.send(self._number, data[start : start + PIECE_BYTES])

    async def end(self) -> None:
        """There is no word for it: a client learns it from the connection's end."""


class WebSocketSession:
    """channels: the numbers that there are. half_close: the client may close its half of a channel, as of v5."""

    def __init__(self, wire: Wire, channels: Collection[int], *, is_base64: bool, half_close: bool) -> None:
        self.channels = {number: Channel(self, number) for number in channels}
        self._wire = wire
        self._is_base64 = is_base64
        self._half_close = half_close
        self._protocol = Connection(ConnectionType.SERVER)
        self._number: int | None = None  # of the message that is being read
        self._text = ""
        self._closing: bytearray | None = None

    async def run(self) -> None:
        """Until the client is gone. Raises ProtocolError, of which the client was told."""
        try:
            while data := await self._wire.receive():
                if await self._take(data):
                    return
        except ProtocolError:
            self._close(CloseReason.PROTOCOL_ERROR)
            raise
        finally:
            for channel in self.channels.values():
                channel.inbox.lose()

    async def send(self, number: int, data: bytes) -> None:
        message: BytesMessage | TextMessage = BytesMessage(data=bytes([number]) + data)
        if self._is_base64:
            message = TextMessage(data=f"{chr(_ZERO + number)}{base64.b64encode(data).decode()}")
        async with self._wire.turn():
            self._wire.put(self._protocol.send(message))

    async def leave(self) -> None:
        """Say that nothing more will come. What the client still sends is dropped."""
        for channel in self.channels.values():
            channel.inbox.discard()
        self._close(CloseReason.NORMAL_CLOSURE)
        await self._wire.finish()

    async def _take(self, data: bytes) -> bool:
        """Has the client closed the connection?"""
        self._protocol.receive_data(data)
        for event in self._protocol.events():
            match event:
                case BytesMessage():
                    await self._take_bytes(bytes(event.data), message_finished=event.message_finished)
                case TextMessage():
                    await self._take_text(event.data, message_finished=event.message_finished)
                case Ping():
                    self._wire.put(self._protocol.send(event.response()))
                case CloseConnection():
                    if self._protocol.state is ConnectionState.OPEN:  # nobody has closed: the bytes are no WebSocket's
                        raise ProtocolError(event.reason or "unreadable")
                    self._close(CloseReason.NORMAL_CLOSURE)
                    return True
        return False

    async def _take_bytes(self, data: bytes, *, message_finished: bool) -> None:
        if self._is_base64:
            raise ProtocolError("a binary message in a base64 protocol")
        if self._number is None and data:
            self._number, data = data[0], data[1:]
        if self._number is not None:
            await self._deliver(self._number, data)
        if message_finished:
            self._number = None

    async def _take_text(self, text: str, *, message_finished: bool) -> None:
        """Messages are small, but for whoever wants to fill our memory."""
        if not self._is_base64:
            raise ProtocolError("a text message in a binary protocol")
        self._text += text
        if len(self._text) > _LONGEST_BASE64:
            raise ProtocolError(f"a base64 message of more than {_LONGEST_BASE64} characters")
        if not message_finished:
            return
        message, self._text = self._text, ""
        if message:
            try:
                number, data = (ord(message[0]) - _ZERO) % 256, base64.b64decode(message[1:], validate=True)
            except (ValueError, binascii.Error) as error:
                raise ProtocolError("a message that is no base64") from error
            await self._deliver(number, data)

    async def _deliver(self, number: int, data: bytes) -> None:
        if number == _CLOSE and self._half_close:
            for closed in data:
                if closed in self.channels:
                    self.channels[closed].inbox.end()
        elif channel := self.channels.get(number):
            channel.inbox.put(data)
            await channel.inbox.until_room()

    def _close(self, reason: CloseReason) -> None:
        try:
            self._wire.put(self._protocol.send(CloseConnection(code=reason)))
        except LocalProtocolError:  # closed by now
            return
