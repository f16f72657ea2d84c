"""The runtime that the kubelet sees: the endpoints and the adapter, as one."""

from collections.abc import AsyncIterator, Mapping, Sequence

import grpc

from multicri_proxy.calls import Call, CallFailed, Reply, Runtime, Stream
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.gather import call_every, stream_every
from multicri_proxy.methods import METHODS, Merge, is_of_images
from multicri_proxy.owners import Owners
from multicri_proxy.routing import DEFAULT, Destination, Router, ToEndpoint, ToEvery, ToOwner


class Interposer:
    """Sends each call to whom it belongs. A `Runtime` made of several.

    endpoints: runtimes behind sockets, by name. images: by the same names, the runtimes that have the ImageService of
    an endpoint in its stead; one may stand for several. adapter: the one in this process.
    """

    def __init__(
        self,
        *,
        router: Router,
        endpoints: Mapping[str, Runtime],
        adapter: Runtime,
        images: Mapping[str, Runtime] | None = None,
    ) -> None:
        self._router = router
        self._endpoints = endpoints
        self._images = {**endpoints, **(images or {})}
        self._adapter = adapter
        self._owners = Owners(endpoints)
        self._everyone = [*_default_first(endpoints), adapter]
        self._everyone_with_images = [*dict.fromkeys(_default_first(self._images)), adapter]
        handlers = [*router.handlers, *sorted(router.endpoints - {DEFAULT})] if DEFAULT in endpoints else []
        self._more_handlers = cri.StatusResponse(
            runtime_handlers=[cri.RuntimeHandler(name=name) for name in handlers]
        ).SerializeToString()

    async def call(self, call: Call) -> Reply:
        method = METHODS[call.path]
        destination = self._router.destination(method, call.request)
        if isinstance(destination, ToEvery):
            return await call_every(self._every(call), call, method.merge)
        runtime = await self._one(destination, call)
        reply = await runtime.call(call)
        return reply.with_more(self._more_handlers) if method.merge is Merge.HANDLERS else reply

    async def stream(self, call: Call) -> Stream:
        method = METHODS[call.path]
        destination = self._router.destination(method, call.request)
        if isinstance(destination, ToEvery):
            return await stream_every(self._every(call), call, method.merge)
        return await (await self._one(destination, call)).stream(call)

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        if DEFAULT not in self._endpoints:
            raise CallFailed(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {call.path}")
        return await self._behind(DEFAULT, call).relay(call, requests)

    async def _one(self, destination: Destination, call: Call) -> Runtime:
        match destination:
            case ToEndpoint(name):
                return self._behind(name, call)
            case ToOwner(whose, object_id):
                return self._endpoints[await self._owners.endpoint_of(whose, object_id, call)]
            case _:
                return self._adapter

    def _behind(self, name: str, call: Call) -> Runtime:
        return self._images[name] if is_of_images(call.path) else self._endpoints[name]

    def _every(self, call: Call) -> Sequence[Runtime]:
        return self._everyone_with_images if is_of_images(call.path) else self._everyone


def _default_first(endpoints: Mapping[str, Runtime]) -> list[Runtime]:
    return [endpoints[name] for name in sorted(endpoints, key=lambda name: name != DEFAULT)]
