"""Exec and attach: a client's streams, joined with a process.

Source: Kubernetes' remotecommand protocols v1 to v5 ("streamType" headers over SPDY, numbers over WebSocket).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from multicri_proxy.api.errors import MulticriError
from multicri_proxy.api.log import Log
from multicri_proxy.api.streams import Connection, Streams
from multicri_proxy.api.tasks import Tasks
from multicri_proxy.streaming.requests import RemoteCommand
from multicri_proxy.streaming.spdy import ProtocolError
from multicri_proxy.streaming.spdy_session import SpdySession, SpdyStream
from multicri_proxy.streaming.status import Ending, written
from multicri_proxy.streaming.terminal import TerminalSizes
from multicri_proxy.streaming.websocket_session import WebSocketSession

log = Log("streaming")

SPDY_PROTOCOLS = {f"v{version}.channel.k8s.io": version for version in (4, 3, 2, 1)}


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of the WebSocket protocols."""

    version: int
    is_base64: bool = False


WEBSOCKET_PROTOCOLS = {
    "v5.channel.k8s.io": Dialect(5),
    "v5.base64.channel.k8s.io": Dialect(5, is_base64=True),
    "v4.channel.k8s.io": Dialect(4),
    "v4.base64.channel.k8s.io": Dialect(4, is_base64=True),
    "channel.k8s.io": Dialect(1),
    "base64.channel.k8s.io": Dialect(1, is_base64=True),
}
OLDEST = 1
"""What a client that names no protocol speaks."""

CHANNELS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}

_FIRST_WITH_RESIZE = 3
_FIRST_WITH_HALF_CLOSE = 5
_LONGEST_FAILURE = 2048


async def over_spdy(session: SpdySession, request: RemoteCommand, version: int, creation_s: float) -> None:
    """Run it once the client has opened all of its streams. creation_s: how long that may take."""
    streams = await _opened(session, request, version, creation_s)
    await _run(request, streams, version)
    await session.leave()


async def over_websocket(session: WebSocketSession, request: RemoteCommand, version: int) -> None:
    """Run it. A first message without content tells the client that the connection stands."""
    streams = {name: session.channels[number] for name, number in CHANNELS.items()}
    first = next((name for name in ("stdout", "stderr") if getattr(request, name)), "error")
    await streams[first].write(b"")
    await _run(request, streams, version)
    await session.leave()


def has_half_close(version: int) -> bool:
    return version >= _FIRST_WITH_HALF_CLOSE


async def _opened(
    session: SpdySession, request: RemoteCommand, version: int, creation_s: float
) -> dict[str, SpdyStream]:
    wanted = {"error"} | {name for name in ("stdin", "stdout", "stderr") if getattr(request, name)}
    if request.tty and version >= _FIRST_WITH_RESIZE:
        wanted.add("resize")
    streams: dict[str, SpdyStream] = {}
    try:
        async with asyncio.timeout(creation_s):
            while missing := wanted - streams.keys():
                stream = await session.opened()
                kind = stream.headers.get("streamtype", "")
                if kind not in missing:
                    raise ProtocolError(f"a stream of type {kind[:20]!r}, where {', '.join(sorted(missing))} are due")
                streams[kind] = stream
    except TimeoutError as error:
        raise ProtocolError(f"the client did not open {', '.join(sorted(missing))} within {creation_s:g} s") from error
    session.accept_no_more()
    return streams


async def _run(request: RemoteCommand, streams: Mapping[str, Connection], version: int) -> None:
    async with Tasks() as tasks:
        sizes = None
        if request.tty and "resize" in streams:
            sizes = TerminalSizes()
            tasks.start("read the terminal's sizes", partial(sizes.take_from, streams["resize"]))
        ending = await _ending(
            request,
            Streams(
                stdin=streams["stdin"] if request.stdin else None,
                stdout=streams["stdout"] if request.stdout else None,
                stderr=streams["stderr"] if request.stderr else None,
                tty=request.tty,
                sizes=sizes,
            ),
        )
    for name in ("stdout", "stderr"):
        if name in streams:
            await streams[name].end()
    if message := written(ending, version):
        await streams["error"].write(message)
    await streams["error"].end()


async def _ending(request: RemoteCommand, streams: Streams) -> Ending:
    try:
        return Ending(exit_code=await request.run(streams))
    except MulticriError as error:
        return Ending(failure=str(error)[:_LONGEST_FAILURE])
    except Exception as error:
        log.defect("a remote command failed in a way that it should not", error)
        return Ending(failure=f"multicri-proxy has a defect: {type(error).__name__}; see its log")
