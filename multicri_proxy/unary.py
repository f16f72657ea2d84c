"""A unary call by the object beneath grpc.aio's own: a small call costs the proxy an eighth less CPU.

grpc.aio puts an object, a task and three conversions of metadata around each call; tests/benchmarks has the figures.
What is used here in its stead is no public interface of grpcio's: pyproject.toml keeps to the series that the tests
have passed with.
"""

import asyncio
import time
from typing import Any

import grpc
import grpc.aio

from multicri_proxy.calls import Call, CallFailed, Metadata, Reply

_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class UnaryCalls:
    """Makes calls on a channel. name: of the runtime at its other end."""

    def __init__(self, name: str, channel: grpc.aio.Channel) -> None:
        self._name = name
        self._begin: Any = channel._channel.call  # type: ignore[attr-defined]

    async def ask(self, path: str, call: Call, *, metadata: Metadata, wait_for_ready: bool) -> Reply:
        """path, metadata: what is sent in place of the call's own. Raises CallFailed."""
        deadline = None if call.timeout_s is None else time.time() + call.timeout_s
        rpc = self._begin(path.encode(), deadline, None, wait_for_ready)
        try:
            message = await rpc.unary_unary(call.request, metadata, None)
            status = await rpc.status()
            initial_metadata = await rpc.initial_metadata() or ()
        except asyncio.CancelledError:
            rpc.cancel("the client has cancelled the call")
            raise
        trailing_metadata = status.trailing_metadata() or ()
        if rpc.is_ok():
            return Reply(
                message=message,
                owner=self._name,
                initial_metadata=initial_metadata,
                trailing_metadata=trailing_metadata,
            )
        raise CallFailed(
            _STATUS[status.code()],
            status.details() or "",
            owner=self._name,
            initial_metadata=initial_metadata,
            trailing_metadata=trailing_metadata,
        )
