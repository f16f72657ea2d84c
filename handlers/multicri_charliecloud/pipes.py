"""Pipes and terminals as asyncio's streams."""

import asyncio
import os

CHUNK_BYTES = 64 * 1024


async def reader_of(descriptor: int, mode: str = "rb") -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    """The descriptor is closed with the transport."""
    reader = asyncio.StreamReader(limit=CHUNK_BYTES)
    file = os.fdopen(descriptor, mode, buffering=0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader, transport


async def writer_to(descriptor: int) -> asyncio.StreamWriter:
    """The descriptor is closed with the writer, or its transport."""
    loop = asyncio.get_running_loop()
    file = os.fdopen(descriptor, "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
    return asyncio.StreamWriter(transport, protocol, None, loop)


def drop(writer: asyncio.StreamWriter) -> None:
    """Close it without what is not written yet, unless it is closed or closing: asyncio's own cannot be asked twice."""
    if not writer.transport.is_closing():
        writer.transport.abort()
