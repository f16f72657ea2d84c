"""The runtime that the kubelet sees: the endpoints and the adapter, as one."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import grpc

from multicri_proxy.calls import Call, CallFailed, Reply, Runtime, Stream
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.gather import call_every, stream_every
from multicri_proxy.methods import METHODS, Merge, is_of_images
from multicri_proxy.owners import Owners
from multicri_proxy.routing import DEFAULT, Decide, Router, ToAdapter, ToEndpoint, ToEvery, ToOwner


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
        self._endpoints = endpoints
        self._adapter = adapter
        self._owners = Owners(endpoints)
        handlers = [*router.handlers, *sorted(router.endpoints - {DEFAULT})] if DEFAULT in endpoints else []
        self._more_handlers = cri.StatusResponse(
            runtime_handlers=[cri.RuntimeHandler(name=name) for name in handlers]
        ).SerializeToString()
        self._images = {**endpoints, **(images or {})}
        everyone = [*_default_first(endpoints), adapter]
        everyone_with_images = [*dict.fromkeys(_default_first(self._images)), adapter]
        self._ways = {
            path: _Way(
                decide=router.decider(method),
                endpoints=self._images if is_of_images(path) else endpoints,
                everyone=everyone_with_images if is_of_images(path) else everyone,
                merge=method.merge,
                tells_handlers=method.merge is Merge.HANDLERS,
            )
            for path, method in METHODS.items()
        }

    async def call(self, call: Call) -> Reply:
        way = self._ways[call.path]
        destination = way.decide(call.request)
        if isinstance(destination, ToEvery):
            return await call_every(way.everyone, call, way.merge)
        reply = await (await self._one(way, destination, call)).call(call)
        return reply.with_more(self._more_handlers) if way.tells_handlers else reply

    async def stream(self, call: Call) -> Stream:
        way = self._ways[call.path]
        destination = way.decide(call.request)
        if isinstance(destination, ToEvery):
            return await stream_every(way.everyone, call, way.merge)
        return await (await self._one(way, destination, call)).stream(call)

    async def relay(self, call: Call, requests: AsyncIterator[bytes]) -> Stream:
        if DEFAULT not in self._endpoints:
            raise CallFailed(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {call.path}")
        endpoints = self._images if is_of_images(call.path) else self._endpoints
        return await endpoints[DEFAULT].relay(call, requests)

    async def _one(self, way: "_Way", destination: ToEndpoint | ToOwner | ToAdapter, call: Call) -> Runtime:
        if isinstance(destination, ToEndpoint):
            return way.endpoints[destination.name]
        if isinstance(destination, ToOwner):
            return self._endpoints[await self._owners.endpoint_of(destination.whose, destination.object_id, call)]
        return self._adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How the calls of one method go: all of it that can be known before there is one."""

    decide: Decide
    endpoints: Mapping[str, Runtime]
    everyone: Sequence[Runtime]
    merge: Merge
    tells_handlers: bool


def _default_first(endpoints: Mapping[str, Runtime]) -> list[Runtime]:
    return [endpoints[name] for name in sorted(endpoints, key=lambda name: name != DEFAULT)]
