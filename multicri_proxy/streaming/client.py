"""One client's connection, from its request to its end."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial

from multicri_proxy.api.errors import MulticriError
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_proxy.streaming import port_forward, remote_command
from multicri_proxy.streaming.remote_command import CHANNELS, OLDEST, SPDY_PROTOCOLS, WEBSOCKET_PROTOCOLS, Dialect
from multicri_proxy.streaming.requests import PortForward, RemoteCommand, Request
from multicri_proxy.streaming.server import Limits
from multicri_proxy.streaming.spdy import ProtocolError
from multicri_proxy.streaming.spdy_session import SpdySession
from multicri_proxy.streaming.tokens import Tokens
from multicri_proxy.streaming.tunnel import Tunnel
from multicri_proxy.streaming.upgrade import Asked, Refused, Transport, Upgrade, protocol_error
from multicri_proxy.streaming.websocket_session import WebSocketSession
from multicri_proxy.streaming.wire import Wire

log = Log("streaming")


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tokens: Tokens[Request], limits: Limits
) -> str:
    """Serve it to its end. Returns why it was refused, if it was."""
    wire = Wire(reader, writer)
    upgrade = Upgrade(wire)
    try:
        async with asyncio.timeout(limits.request_s):
            try:
                asked = await upgrade.read()
                request = _taken(tokens, asked)
                protocol = _protocol(asked, request)
            except Refused as refused:
                await upgrade.refuse(refused)
                await wire.finish()
                return refused.reason
            await upgrade.accept(asked, protocol)
    except TimeoutError:
        return f"no request came within {limits.request_s:g} s"
    except MulticriError:
        return "the client left before it had its answer"
    wire = Wire(reader, writer, upgrade.early)
    try:
        await _stream(wire, asked.transport, protocol, request, limits)
    except ProtocolError as error:
        return str(error)
    except MulticriError as error:
        log.debug("a stream client left", error=error)
    return ""


def _taken(tokens: Tokens[Request], asked: Asked) -> Request:
    """What the path's token stands for. Raises Refused."""
    _, what, token, *rest = [*asked.path.split("/"), "", ""]
    request = tokens.take(token)
    if request is None or request.what != what or any(rest):
        raise Refused(404, "no such stream: its URL is unknown, was used, or is older than a minute")
    return request


def _protocol(asked: Asked, request: Request) -> str:
    """The first of the client's protocols that is spoken here; empty if it names none. Raises Refused."""
    match asked.transport, request:
        case Transport.SPDY, RemoteCommand():
            spoken = tuple(SPDY_PROTOCOLS)
        case Transport.SPDY, PortForward():
            spoken = (port_forward.SPDY_PROTOCOL,)
        case Transport.WEBSOCKET, RemoteCommand():
            spoken = tuple(WEBSOCKET_PROTOCOLS)
        case _:
            spoken = (port_forward.TUNNEL_PROTOCOL, *port_forward.WEBSOCKET_PROTOCOLS)
    if not asked.protocols:
        return ""
    protocol = next((name for name in asked.protocols if name in spoken), None)
    if protocol is None:
        raise protocol_error(spoken)
    return protocol


async def _stream(wire: Wire, transport: Transport, protocol: str, request: Request, limits: Limits) -> None:
    reading, work = _session(wire, transport, protocol, request, limits)
    async with Tasks() as tasks:
        read = tasks.outcome("read from a stream client", reading)
        worked = tasks.outcome(f"serve {request.what}", work)
        idle = tasks.outcome("wait for a stream client to be idle", partial(wire.until_idle, limits.idle_s))
        done, _ = await asyncio.wait({read, worked, idle}, return_when=asyncio.FIRST_COMPLETED)
        if worked in done and not worked.exception():
            await asyncio.wait({read}, timeout=limits.linger_s)
        elif idle in done:
            log.info("a stream client was idle for too long", what=request.what, idle_s=limits.idle_s)
        for future in done:
            future.result()


Work = Callable[[], Coroutine[object, object, None]]


def _session(wire: Wire, transport: Transport, protocol: str, request: Request, limits: Limits) -> tuple[Work, Work]:
    """What reads from the client, and what serves it."""
    if transport is Transport.SPDY:
        spdy = SpdySession(wire)
        if isinstance(request, PortForward):
            return spdy.run, partial(port_forward.over_spdy, spdy, request, limits.creation_s)
        version = SPDY_PROTOCOLS.get(protocol, OLDEST)
        return spdy.run, partial(remote_command.over_spdy, spdy, request, version, limits.creation_s)
    if isinstance(request, PortForward) and protocol == port_forward.TUNNEL_PROTOCOL:
        spdy = SpdySession(Tunnel(wire))
        return spdy.run, partial(port_forward.over_spdy, spdy, request, limits.creation_s)
    if isinstance(request, PortForward):
        is_base64 = port_forward.WEBSOCKET_PROTOCOLS.get(protocol, False)
        channels = range(2 * len(request.ports))
        websocket = WebSocketSession(wire, channels, is_base64=is_base64, half_close=False)
        return websocket.run, partial(port_forward.over_websocket, websocket, request)
    dialect = WEBSOCKET_PROTOCOLS.get(protocol, Dialect(OLDEST))
    half_close = remote_command.has_half_close(dialect.version)
    websocket = WebSocketSession(wire, CHANNELS.values(), is_base64=dialect.is_base64, half_close=half_close)
    return websocket.run, partial(remote_command.over_websocket, websocket, request, dialect.version)
