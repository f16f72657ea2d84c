"""Several endpoints and an adapter behind one socket."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from interposer import backend as scripted
from multicri_proxy.calls import Call, CallFailed
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.interposer import Interposer
from multicri_proxy.local import LocalRuntime
from multicri_proxy.remote import RemoteRuntime
from multicri_proxy.routing import Router

RUNTIME = "/runtime.v1.RuntimeService/"


class OneContainer:
    """An adapter that has the container ``ours``."""

    def owns_sandbox(self, sandbox_id: str) -> bool:
        return False

    def owns_container(self, container_id: str) -> bool:
        return container_id == "ours"

    def owns_image(self, name: str) -> bool:
        return False

    async def list_containers(self, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
        return cri.ListContainersResponse(containers=[cri.Container(id="ours")])

    async def stream_containers(
        self, request: cri.StreamContainersRequest
    ) -> AsyncIterator[cri.StreamContainersResponse]:
        yield cri.StreamContainersResponse(containers=[cri.Container(id="ours")])

    async def update_runtime_config(self, request: cri.UpdateRuntimeConfigRequest) -> cri.UpdateRuntimeConfigResponse:
        return cri.UpdateRuntimeConfigResponse()

    async def list_images(self, request: cri.ListImagesRequest) -> cri.ListImagesResponse:
        return cri.ListImagesResponse()

    async def get_container_events(self, request: cri.GetEventsRequest) -> AsyncIterator[cri.ContainerEventResponse]:
        await asyncio.Event().wait()
        yield cri.ContainerEventResponse()


@dataclass
class Two:
    default: scripted.Backend
    kata: scripted.Backend
    remotes: Mapping[str, RemoteRuntime]

    @property
    def proxy(self) -> Interposer:
        return self.with_images({})

    def with_images(self, images: Mapping[str, RemoteRuntime]) -> Interposer:
        adapter = OneContainer()
        return Interposer(
            router=Router(handlers=("multicri",), endpoints=frozenset(self.remotes), ours=adapter),
            endpoints=self.remotes,
            images=images,
            adapter=LocalRuntime("multicri", adapter),
        )

    async def containers(self, **filters: str) -> list[str]:
        request = cri.ListContainersRequest(filter=cri.ContainerFilter(**filters))
        reply = await self.proxy.call(Call(path=RUNTIME + "ListContainers", request=request.SerializeToString()))
        return [found.id for found in cri.ListContainersResponse.FromString(reply.message).containers]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        backends = {
            name: await stack.enter_async_context(scripted.serving(tmp_path / f"{name}.sock"))
            for name in ("default", "kata")
        }
        remotes = {
            name: await stack.enter_async_context(RemoteRuntime(name, str(backend.socket_path)))
            for name, backend in backends.items()
        }
        yield Two(default=backends["default"], kata=backends["kata"], remotes=remotes)


def listing(*ids: str) -> bytes:
    return cri.ListContainersResponse(containers=[cri.Container(id=i) for i in ids]).SerializeToString()


async def test_a_list_has_what_every_runtime_has(two: Two) -> None:
    two.default.answers(RUNTIME + "ListContainers", listing("a", "b"))
    two.kata.answers(RUNTIME + "ListContainers", listing("c"))
    assert await two.containers() == ["a", "b", "c", "ours"]


async def test_a_list_fails_rather_than_omit_what_a_runtime_does_not_tell(two: Two) -> None:
    async def down(requests: AsyncIterator[bytes], context: scripted.Context) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "kata is away")

    two.default.answers(RUNTIME + "ListContainers", listing("a"))
    two.kata.behaviours[RUNTIME + "ListContainers"] = down
    with pytest.raises(CallFailed, match="kata is away"):
        await two.containers()


async def test_a_filter_by_id_goes_to_its_owner_alone(two: Two) -> None:
    assert await two.containers(id="ours") == ["ours"]


async def test_a_streamed_list_has_the_batches_of_every_runtime(two: Two) -> None:
    two.default.answers(RUNTIME + "StreamContainers", listing("a"), listing("b"))
    two.kata.answers(RUNTIME + "StreamContainers")
    stream = await two.proxy.stream(Call(path=RUNTIME + "StreamContainers", request=b""))
    batches = [cri.StreamContainersResponse.FromString(message) async for message in stream]
    assert sorted(found.id for batch in batches for found in batch.containers) == ["a", "b", "ours"]


def leading(metadata: str, *messages: bytes, after: asyncio.Event | None = None) -> scripted.Behaviour:
    """Initial metadata at once, messages after an event, and no end to a stream without any."""

    async def behave(requests: AsyncIterator[bytes], context: scripted.Context) -> None:
        if metadata:
            await context.send_initial_metadata((("x-from", metadata),))
        if after:
            await after.wait()
        for message in messages:
            await context.write(message)
        if not messages:
            await asyncio.Event().wait()

    return behave


async def test_a_streamed_list_begins_with_the_default_runtimes_metadata_whoever_is_first(two: Two) -> None:
    path, may = RUNTIME + "StreamContainers", asyncio.Event()
    two.kata.behaviours[path] = leading("kata", listing("c"))

    async def late(requests: AsyncIterator[bytes], context: scripted.Context) -> None:
        await may.wait()
        await leading("default", listing("a"))(requests, context)

    two.default.behaviours[path] = late
    stream = await two.proxy.stream(Call(path=path, request=b""))
    asyncio.get_running_loop().call_later(0.1, may.set)
    assert ("x-from", "default") in await asyncio.wait_for(stream.initial_metadata(), 60)
    assert len([message async for message in stream]) == 3


async def test_a_list_begins_with_the_default_runtimes_metadata(two: Two) -> None:
    path = RUNTIME + "ListContainers"
    two.default.behaviours[path] = leading("default", listing("a"))
    two.kata.behaviours[path] = leading("kata", listing("c"))
    reply = await two.proxy.call(Call(path=path, request=b""))
    assert [item for item in reply.initial_metadata if item[0] == "x-from"] == [("x-from", "default")]


@pytest.mark.parametrize("says", ["default", ""])
async def test_events_begin_with_what_the_default_runtime_has_said_by_the_first_of_any(two: Two, says: str) -> None:
    path, may = RUNTIME + "GetContainerEvents", asyncio.Event()
    two.default.behaviours[path] = leading(says)
    two.kata.behaviours[path] = leading("kata", b"event", after=may)
    stream = await two.proxy.stream(Call(path=path, request=b""))
    beginning = asyncio.ensure_future(stream.initial_metadata())
    if says:
        assert ("x-from", "default") in await asyncio.wait_for(asyncio.shield(beginning), 60)
    may.set()
    assert [value for key, value in await asyncio.wait_for(beginning, 60) if key == "x-from"] == [says] * bool(says)
    assert [message async for message in stream] == [b"event"]


async def test_a_streamed_list_that_fails_is_not_held_up_by_a_default_runtime_that_hangs(two: Two) -> None:
    async def fail(requests: AsyncIterator[bytes], context: scripted.Context) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "kata is away")

    path = RUNTIME + "StreamContainers"
    two.default.behaviours[path] = leading("")
    two.kata.behaviours[path] = fail
    stream = await two.proxy.stream(Call(path=path, request=b""))
    await asyncio.wait_for(stream.initial_metadata(), 60)
    with pytest.raises(CallFailed, match="kata is away"):
        async for _ in stream:
            pass


async def test_the_images_of_a_socket_that_stands_for_two_endpoints_are_listed_once(two: Two, tmp_path: Path) -> None:
    path = "/runtime.v1.ImageService/ListImages"
    image = cri.ListImagesResponse(images=[cri.Image(id="one")]).SerializeToString()
    async with (
        scripted.serving(tmp_path / "images.sock") as service,
        RemoteRuntime("default", str(service.socket_path)) as shared,
    ):
        service.answers(path, image)
        proxy = two.with_images({"default": shared, "kata": shared})
        assert (await proxy.call(Call(path=path, request=b""))).message == image
        two.kata.answers(path, image)
        proxy = two.with_images({"default": shared})
        assert (await proxy.call(Call(path=path, request=b""))).message == image + image


async def test_a_streamed_list_is_unimplemented_if_one_runtime_does_not_know_it(two: Two) -> None:
    two.default.answers(RUNTIME + "StreamContainers", listing("a"))
    stream = await two.proxy.stream(Call(path=RUNTIME + "StreamContainers", request=b""))
    with pytest.raises(CallFailed) as raised:
        async for _ in stream:
            pass
    assert raised.value.code is grpc.StatusCode.UNIMPLEMENTED


async def test_an_unknown_container_is_looked_for_and_its_owner_answers(two: Two) -> None:
    two.default.answers(RUNTIME + "ListContainers", b"")
    two.kata.answers(RUNTIME + "ListContainers", listing("theirs"))
    two.kata.answers(RUNTIME + "StartContainer", b"")
    request = cri.StartContainerRequest(container_id="theirs").SerializeToString()
    assert (await two.proxy.call(Call(path=RUNTIME + "StartContainer", request=request))).message == b""


async def test_a_container_that_nobody_has_gets_the_default_runtimes_own_answer(two: Two) -> None:
    async def not_found(requests: AsyncIterator[bytes], context: scripted.Context) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "default says so")

    for runtime in (two.default, two.kata):
        runtime.answers(RUNTIME + "ListContainers", b"")
    two.default.behaviours[RUNTIME + "StartContainer"] = not_found
    request = cri.StartContainerRequest(container_id="nobodys").SerializeToString()
    with pytest.raises(CallFailed, match="default says so"):
        await two.proxy.call(Call(path=RUNTIME + "StartContainer", request=request))


async def test_status_is_the_default_runtimes_with_the_handlers_of_all(two: Two) -> None:
    status = cri.StatusResponse(
        status=cri.RuntimeStatus(conditions=[cri.RuntimeCondition(type="RuntimeReady", status=True)]),
        runtime_handlers=[cri.RuntimeHandler(name="runc")],
    )
    two.default.answers(RUNTIME + "Status", status.SerializeToString())
    reply = await two.proxy.call(Call(path=RUNTIME + "Status", request=b""))
    merged = cri.StatusResponse.FromString(reply.message)
    assert merged.status == status.status
    assert [handler.name for handler in merged.runtime_handlers] == ["runc", "multicri", "kata"]


async def test_the_pod_network_is_told_to_everyone_and_the_default_runtime_answers(two: Two) -> None:
    told = []

    async def take(requests: AsyncIterator[bytes], context: scripted.Context) -> None:
        told.extend([message async for message in requests])
        await context.write(b"")

    for runtime in (two.default, two.kata):
        runtime.behaviours[RUNTIME + "UpdateRuntimeConfig"] = take
    network = cri.NetworkConfig(pod_cidr="10.1.0.0/16")
    request = cri.UpdateRuntimeConfigRequest(runtime_config=cri.RuntimeConfig(network_config=network))
    await two.proxy.call(Call(path=RUNTIME + "UpdateRuntimeConfig", request=request.SerializeToString()))
    assert told == [request.SerializeToString()] * 2


async def test_an_endpoint_that_hangs_holds_up_no_call_for_another_ones_container(two: Two) -> None:
    async def hang(requests: AsyncIterator[bytes], context: scripted.Context) -> None:
        await asyncio.Event().wait()

    two.default.answers(RUNTIME + "ListContainers", listing("theirs"))
    two.kata.behaviours[RUNTIME + "ListContainers"] = hang
    two.default.answers(RUNTIME + "StartContainer", b"")
    request = cri.StartContainerRequest(container_id="theirs").SerializeToString()
    call = Call(path=RUNTIME + "StartContainer", request=request, timeout_s=60)
    assert (await asyncio.wait_for(two.proxy.call(call), 60)).owner == "default"


async def test_a_request_that_cannot_be_decoded_gets_the_runtimes_own_words(two: Two) -> None:
    async def refuse(requests: AsyncIterator[bytes], context: scripted.Context) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "grpc: error unmarshalling request")

    for runtime in (two.default, two.kata):
        runtime.behaviours[RUNTIME + "ListContainers"] = refuse
    with pytest.raises(CallFailed, match="error unmarshalling request"):
        await two.proxy.call(Call(path=RUNTIME + "ListContainers", request=b"\xff\xff"))
