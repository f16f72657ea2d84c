"""Which endpoint has this sandbox or container? Learnt from the endpoints themselves: ids are never used again.

Only needed where there are several endpoints.
"""

import asyncio
from collections.abc import Mapping

import grpc

from multicri_proxy.calls import Call, CallFailed, Metadata, Runtime
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.methods import Whose
from multicri_proxy.routing import DEFAULT

_MOST_REMEMBERED = 100_000


class Owners:
    """Remembers owners, and asks where it does not. What it forgets it asks again."""

    def __init__(self, endpoints: Mapping[str, Runtime]) -> None:
        self._endpoints = endpoints
        self._known: dict[tuple[Whose, str], str] = {}

    def _learn(self, whose: Whose, object_id: str, endpoint: str) -> None:
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[whose, object_id] = endpoint

    async def endpoint_of(self, whose: Whose, object_id: str, asked_by: Call) -> str:
        """The endpoint that has the object, or the default one if none has: its answer is then the right one.

        Raises the CallFailed of an endpoint that could not be asked, if no other one has the object.
        """
        if known := self._known.get((whose, object_id)):
            return known
        async with asyncio.TaskGroup() as group:
            tasks = {
                group.create_task(self._has(runtime, whose, object_id, asked_by.metadata, asked_by.timeout_s)): name
                for name, runtime in self._endpoints.items()
            }
            waiting = set(tasks)
            while waiting:  # an endpoint that hangs must not hold up another one's object
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.result() is True:
                        for other in waiting:
                            other.cancel()
                        self._learn(whose, object_id, tasks[task])
                        return tasks[task]
        for task in tasks:
            if isinstance(outcome := task.result(), CallFailed):
                raise outcome
        if DEFAULT in self._endpoints:
            return DEFAULT
        kind = "sandbox" if whose is Whose.SANDBOX else "container"
        raise CallFailed(grpc.StatusCode.NOT_FOUND, f"no runtime endpoint has the {kind} {object_id[:64]!r}")

    async def _has(
        self, runtime: Runtime, whose: Whose, object_id: str, metadata: Metadata, timeout_s: float | None
    ) -> bool | CallFailed:
        request: cri.ListPodSandboxRequest | cri.ListContainersRequest
        if whose is Whose.SANDBOX:
            path = "/runtime.v1.RuntimeService/ListPodSandbox"
            request = cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(id=object_id))
        else:
            path = "/runtime.v1.RuntimeService/ListContainers"
            request = cri.ListContainersRequest(filter=cri.ContainerFilter(id=object_id))
        call = Call(path=path, request=request.SerializeToString(), metadata=metadata, timeout_s=timeout_s)
        try:
            return bool((await runtime.call(call)).message)
        except CallFailed as failure:
            return failure
