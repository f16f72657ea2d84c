"""A runtime behind a socket that does what its test says: for answers that no real runtime can be made to give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

Context = grpc.aio.ServicerContext[bytes, bytes]
Behaviour = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@dataclass
class Backend:
    """Serves each path with the behaviour that its test has put there; others are UNIMPLEMENTED."""

    socket_path: Path
    behaviours: dict[str, Behaviour] = field(default_factory=dict)

    def answers(self, path: str, *messages: bytes) -> None:
        async def behave(requests: AsyncIterator[bytes], context: Context) -> None:
            async for _ in requests:
                pass
            for message in messages:
                await context.write(message)

        self.behaviours[path] = behave


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        behaviour = self._backend.behaviours.get(handler_call_details.method)
        return grpc.stream_stream_rpc_method_handler(behaviour) if behaviour else None


@asynccontextmanager
async def serving(socket_path: Path) -> AsyncIterator[Backend]:
    backend = Backend(socket_path)
    server = grpc.aio.server(options=UNLIMITED)
    server.add_generic_rpc_handlers((_Handlers(backend),))
    server.add_insecure_port(f"unix:{socket_path}")
    await server.start()
    try:
        yield backend
    finally:
        await server.stop(None)
