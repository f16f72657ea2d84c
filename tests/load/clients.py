"""Clients of the proxy, in this process or in one of their own: ``python -m load.clients SOCKET FLOOD_BYTES``."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from load.runtime import COUNTERS, Counters

RUNTIME, IMAGE = "/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/"
EVENTS, BATCHES, UNKNOWN = RUNTIME + "GetContainerEvents", RUNTIME + "StreamContainers", "/load.Runtime/Unknown"

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Client:
    """One connection."""

    channel: grpc.aio.Channel

    async def call(self, path: str, request: bytes = b"", metadata: Metadata = (), timeout_s: float = 60) -> bytes:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        return await method(request, metadata=metadata, timeout=timeout_s)

    def stream(
        self, path: str, metadata: Metadata = (), timeout_s: float | None = None
    ) -> "grpc.aio.UnaryStreamCall[bytes, bytes]":
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream(path)
        return method(b"", metadata=metadata, timeout=timeout_s)

    async def counters(self) -> Counters:
        """What the runtime sees. To be asked of the runtime itself: this call is one more."""
        found = Counters(**json.loads(await self.call(COUNTERS)))
        found.in_flight -= 1
        return found

    async def until_idle(self, timeout_s: float = 30) -> None:
        """Until the runtime sees no call any more: the end of one that was cancelled takes its time to get there."""
        async with asyncio.timeout(timeout_s):
            while (await self.counters()).in_flight:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def connected(socket_path: Path) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(f"unix:{socket_path}", options=OPTIONS) as channel:
        yield Client(channel)


@asynccontextmanager
async def all_connected(socket_path: Path, number: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected(socket_path)) for _ in range(number)]


VANISHING_CALLS = 40
"""How many calls ``main`` has under way."""


async def main(socket_path: str, flood_bytes: str) -> None:
    """Open calls of every kind, ten of each, read nothing, and wait for the end.

    flood_bytes: what comes in each stream; 0 for streams in which next to nothing happens.
    """
    hold: Metadata = (("x-hold", "0"),)
    flood: Metadata = (("x-flood", flood_bytes),) if int(flood_bytes) else ()
    async with connected(Path(socket_path)) as client:
        streams = [client.stream(EVENTS, flood) for _ in range(10)]
        streams += [client.stream(path, flood or hold) for path in (BATCHES, UNKNOWN) for _ in range(10)]
        held = [client.call(RUNTIME + "ExecSync", metadata=hold, timeout_s=600) for _ in range(10)]
        await asyncio.gather(*held)
        for stream in streams:
            stream.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
