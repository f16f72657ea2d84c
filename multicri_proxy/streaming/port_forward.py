"""Port-forward: pairs of a data and an error stream, each joined with a connection to a port of the pod.

Source: Kubernetes' portforward.k8s.io ("streamType", "port" and "requestID" headers over SPDY), and its form over
WebSocket: two channels for each port, that begin with the port's number, little-endian.
"""

import asyncio
import struct
from contextlib import AsyncExitStack
from functools import partial

from multicri_proxy.api.errors import MulticriError, Unavailable
from multicri_proxy.api.log import Log
from multicri_proxy.api.streams import Connection, Reader
from multicri_proxy.api.tasks import Tasks
from multicri_proxy.streaming.requests import PortForward
from multicri_proxy.streaming.spdy import Reset
from multicri_proxy.streaming.spdy_session import SpdySession, SpdyStream
from multicri_proxy.streaming.websocket_session import WebSocketSession
from multicri_proxy.streaming.wire import PIECE_BYTES

log = Log("streaming")

SPDY_PROTOCOL = "portforward.k8s.io"
WEBSOCKET_PROTOCOLS = {"v4.channel.k8s.io": False, "v4.base64.channel.k8s.io": True}
"""To whether they are base64."""

TUNNEL_PROTOCOL = f"SPDY/3.1+{SPDY_PROTOCOL}"
"""SPDY inside of a WebSocket."""

_CONNECT_S = 30.0
_LINGER_S = 10.0
_LONGEST_FAILURE = 2048
_LARGEST_PORT = (1 << 16) - 1


async def over_spdy(session: SpdySession, request: PortForward, creation_s: float) -> None:
    """Serve as many connections as the client opens. creation_s: how long half a pair may wait for the other half."""
    waiting: dict[str, tuple[SpdyStream, asyncio.Task[None]]] = {}

    async def expire(request_id: str, stream: SpdyStream) -> None:
        await asyncio.sleep(creation_s)
        del waiting[request_id]
        stream.reset(Reset.CANCEL)

    async with Tasks() as tasks:
        while True:
            stream = await session.opened()
            port, request_id = _port(stream), stream.headers.get("requestid", "")
            kind = stream.headers.get("streamtype", "")
            if not port or not request_id or kind not in ("data", "error"):
                stream.reset(Reset.PROTOCOL_ERROR)
            elif request_id not in waiting:
                expiring = tasks.start("wait for the other stream of a pair", partial(expire, request_id, stream))
                waiting[request_id] = (stream, expiring)
            else:
                other, expiring = waiting.pop(request_id)
                expiring.cancel()
                pair = {kind: stream, other.headers["streamtype"]: other}
                if len(pair) == 2:
                    tasks.start(
                        f"forward to port {port}", partial(_forward, request, port, pair["data"], pair["error"])
                    )
                else:
                    stream.reset(Reset.PROTOCOL_ERROR)
                    other.reset(Reset.PROTOCOL_ERROR)


async def over_websocket(session: WebSocketSession, request: PortForward) -> None:
    """Serve one connection for each port that was named."""
    async with asyncio.TaskGroup() as group:
        for index, port in enumerate(request.ports):
            data, error = session.channels[2 * index], session.channels[2 * index + 1]
            for channel in (data, error):
                await channel.write(struct.pack("<H", port))
            group.create_task(_forward(request, port, data, error), name=f"forward to port {port}")
    await session.leave()


async def _forward(request: PortForward, port: int, data: Connection, error: Connection) -> None:
    """Until both sides have ended, or the pod's side has and the client's does not follow."""
    try:
        failure = await _joined(request, port, data)
        if failure:
            await error.write(failure[:_LONGEST_FAILURE].encode())
        await data.end()
        await error.end()
    except Unavailable:
        return  # the client has closed these streams


async def _joined(request: PortForward, port: int, client: Connection) -> str:
    """Why there was no connection; empty if there was one."""
    try:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(_CONNECT_S):
                pod = await stack.enter_async_context(request.connect(port))
            async with Tasks() as tasks:
                sending = tasks.outcome(f"send to port {port}", partial(_copy, client, pod))
                receiving = tasks.outcome(f"receive from port {port}", partial(_copy, pod, client))
                done, _ = await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
                if receiving in done:
                    await asyncio.wait({sending}, timeout=_LINGER_S)
                elif not sending.exception():
                    await asyncio.wait({receiving})
    except TimeoutError:
        return f"port {port} did not answer within {_CONNECT_S:g} s"
    except MulticriError as error:
        return f"port {port} cannot be reached: {error}"
    except Exception as error:
        log.defect("a port was forwarded in a way that it should not", error, port=port)
        return f"multicri-proxy has a defect: {type(error).__name__}; see its log"
    return ""


async def _copy(source: Reader, target: Connection) -> None:
    while data := await source.read(PIECE_BYTES):
        await target.write(data)
    await target.end()


def _port(stream: SpdyStream) -> int:
    """0 if it names none."""
    text = stream.headers.get("port", "")
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(_LARGEST_PORT)) else 0
    return number if number <= _LARGEST_PORT else 0
