"""Asks several runtimes and merges what they answer. A list never lies by omission: if one fails, it fails."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from multicri_proxy.calls import Call, CallFailed, Metadata, Reply, Runtime, Stream, Unreadable
from multicri_proxy.methods import Merge

_WAITING_MESSAGES = 16


async def call_every(runtimes: Sequence[Runtime], call: Call, merge: Merge) -> Reply:
    """Ask all at once; the first runtime's metadata stands for all.

    Concatenating serialized messages of one type is protobuf's own merge: repeated fields follow one another.
    Raises the CallFailed of the first runtime, in the given order, that failed. Who cannot read the request has
    nothing to add, unless nobody can.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_outcome(runtime, call)) for runtime in runtimes]
    outcomes = [task.result() for task in tasks]
    replies = []
    for outcome in [one for one in outcomes if not isinstance(one, Unreadable)] or outcomes:
        if isinstance(outcome, CallFailed):
            raise outcome
        replies.append(outcome)
    owner = "+".join(reply.owner for reply in replies)
    more = b"" if merge is Merge.FIRST else b"".join(reply.message for reply in replies[1:])
    return replace(replies[0], message=replies[0].message + more, owner=owner)


async def _outcome(runtime: Runtime, call: Call) -> Reply | CallFailed:
    try:
        return await runtime.call(call)
    except CallFailed as failure:
        return failure


async def stream_every(runtimes: Sequence[Runtime], call: Call, merge: Merge) -> Stream:
    """Messages of all runtimes as they come, until all have ended or, with UNTIL_ANY_ENDS, one has.

    The stream is at work from here on: it is to be read to its end, or cancelled.
    """
    streams: list[Stream] = []
    unreadable: Unreadable | None = None
    for runtime in runtimes:
        try:
            streams.append(await runtime.stream(call))
        except Unreadable as failure:
            unreadable = failure
    if unreadable and not streams:
        raise unreadable
    return _MergedStream(streams, until_any_ends=merge is Merge.UNTIL_ANY_ENDS)


class _Ended:
    """A stream's end among its messages. failure: None if it ended well."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure


class _MergedStream:
    """The first stream leads: its metadata is that of all."""

    def __init__(self, streams: Sequence[Stream], *, until_any_ends: bool) -> None:
        self.owner = "+".join(stream.owner for stream in streams)
        self._streams = streams
        self._until_any_ends = until_any_ends
        self._arrivals: asyncio.Queue[bytes | _Ended] = asyncio.Queue(_WAITING_MESSAGES)
        self._beginning: asyncio.Future[Metadata] = asyncio.get_running_loop().create_future()
        self._pumps = [asyncio.create_task(self._pump(stream), name="merge a stream") for stream in streams]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        remaining = len(self._pumps)
        try:
            while remaining:
                arrival = await self._arrivals.get()
                if not isinstance(arrival, _Ended):
                    yield arrival
                    continue
                if arrival.failure:
                    raise arrival.failure
                remaining = 0 if self._until_any_ends else remaining - 1
        finally:
            self.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)

    async def initial_metadata(self) -> Metadata:
        """The first runtime's; without end, what it has said before the first message of any."""
        return await asyncio.shield(self._beginning)

    async def trailing_metadata(self) -> Metadata:
        """The first runtime's, as in a list."""
        return await self._streams[0].trailing_metadata()

    def cancel(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        for stream in self._streams:
            stream.cancel()

    async def _pump(self, stream: Stream) -> None:
        failure = None
        try:
            if stream is self._streams[0]:
                self._begin(await stream.initial_metadata())
            async for message in stream:
                if self._until_any_ends:
                    self._begin(())
                await self._arrivals.put(message)
        except Exception as error:  # whatever it is, the reader must learn of it
            failure = error
        if failure or self._until_any_ends:
            self._begin(())
        await self._arrivals.put(_Ended(failure))

    def _begin(self, metadata: Metadata) -> None:
        if not self._beginning.done():
            self._beginning.set_result(metadata)
