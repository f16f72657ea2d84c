"""Whose call is this?"""

from dataclasses import dataclass, field

import pytest
from google.protobuf.message import Message

from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.methods import IMAGE_SERVICE, METHODS, RUNTIME_SERVICE, V1, V1ALPHA2, Merge, Whose
from multicri_proxy.routing import Destination, Router, ToAdapter, ToEndpoint, ToEvery, ToOwner

RUNTIME, IMAGE = "/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/"


@dataclass
class Known:
    sandboxes: set[str] = field(default_factory=lambda: {"our-sandbox"})
    containers: set[str] = field(default_factory=lambda: {"our-container"})

    def owns_sandbox(self, sandbox_id: str) -> bool:
        return sandbox_id in self.sandboxes

    def owns_container(self, container_id: str) -> bool:
        return container_id in self.containers

    def owns_image(self, name: str) -> bool:
        return name.startswith("multicri/")


def route(path: str, request: Message | bytes, *endpoints: str) -> Destination:
    router = Router(handlers=("multicri", "multicri-gpu"), endpoints=frozenset(endpoints or ("default",)), ours=Known())
    return router.decider(METHODS[path])(request if isinstance(request, bytes) else request.SerializeToString())


def run(handler: str) -> cri.RunPodSandboxRequest:
    return cri.RunPodSandboxRequest(runtime_handler=handler)


def image(name: str, handler: str = "") -> cri.PullImageRequest:
    return cri.PullImageRequest(image=cri.ImageSpec(image=name, runtime_handler=handler))


def containers(**filters: str) -> cri.ListContainersRequest:
    return cri.ListContainersRequest(filter=cri.ContainerFilter(**filters))


@pytest.mark.parametrize(
    ("path", "request_message", "endpoints", "expected"),
    [
        (RUNTIME + "RunPodSandbox", run("multicri"), ("default",), ToAdapter()),
        (RUNTIME + "RunPodSandbox", run("multicri-gpu"), ("default",), ToAdapter()),
        (RUNTIME + "RunPodSandbox", run(""), ("default", "kata"), ToEndpoint("default")),
        (RUNTIME + "RunPodSandbox", run("kata"), ("default", "kata"), ToEndpoint("kata")),
        (RUNTIME + "RunPodSandbox", run("gvisor"), ("default", "kata"), ToEndpoint("default")),
        (RUNTIME + "RunPodSandbox", run(""), ("kata",), ToAdapter()),
        (RUNTIME + "StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id="our-sandbox"), (), ToAdapter()),
        (RUNTIME + "StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id="theirs"), (), ToEndpoint("default")),
        (
            RUNTIME + "StartContainer",
            cri.StartContainerRequest(container_id="theirs"),
            ("default", "kata"),
            ToOwner(Whose.CONTAINER, "theirs"),
        ),
        (IMAGE + "PullImage", image("multicri/docker.perl"), (), ToAdapter()),
        (IMAGE + "PullImage", image("multicripple/docker.perl"), (), ToEndpoint("default")),
        (IMAGE + "PullImage", image("perl"), (), ToEndpoint("default")),
        (IMAGE + "PullImage", image("perl", "multicri"), (), ToAdapter()),
        (IMAGE + "PullImage", image("perl", "kata"), ("default", "kata"), ToEndpoint("kata")),
        (IMAGE + "PullImage", image("multicri/docker.perl", "runc"), (), ToAdapter()),
        (RUNTIME + "ListContainers", containers(), (), ToEvery()),
        (RUNTIME + "ListContainers", containers(id="our-container"), (), ToAdapter()),
        (RUNTIME + "ListContainers", containers(pod_sandbox_id="our-sandbox"), (), ToAdapter()),
        (RUNTIME + "ListContainers", containers(id="theirs"), (), ToEndpoint("default")),
        (RUNTIME + "StreamContainers", containers(id="our-container"), (), ToAdapter()),
        (RUNTIME + "Version", b"", (), ToEndpoint("default")),
        (RUNTIME + "Version", b"", ("kata",), ToAdapter()),
        (RUNTIME + "StopContainer", b"\x0a\xff", (), ToEndpoint("default")),
        (RUNTIME + "StopContainer", b"\x0a\x02\xff\xfe", ("default", "kata"), ToEndpoint("default")),
    ],
)
def test_a_call_goes_to_its_owner(
    path: str, request_message: Message | bytes, endpoints: tuple[str, ...], expected: Destination
) -> None:
    assert route(path, request_message, *endpoints) == expected


def test_the_table_has_every_method_of_the_transcription_and_knows_which_ones_stream() -> None:
    described = {
        f"/{version}.{service.name}/{method.name}": method.server_streaming
        for version in (V1, V1ALPHA2)
        for service in cri.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {path: row.streaming for path, row in METHODS.items()} == described
    assert len(RUNTIME_SERVICE) + len(IMAGE_SERVICE) == len(METHODS) / 2 == 41


@pytest.mark.parametrize("path", METHODS)
def test_every_path_of_a_row_leads_to_a_string_that_is_named_so(path: str) -> None:
    row = METHODS[path]
    service, name = path.lstrip("/").split("/")
    request = cri.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods_by_name[name].input_type
    wanted = {
        "key": {
            Whose.SANDBOX: "pod_sandbox_id",
            Whose.CONTAINER: "container_id",
            Whose.IMAGE: "image",
            Whose.HANDLER: "runtime_handler",
        }.get(row.whose, ""),
        "handler": "runtime_handler",
        "container": "id",
        "sandbox": "id" if "Sandbox" in name else "pod_sandbox_id",
        "image": "image",
    }
    for column, field_name in wanted.items():
        message = request
        for depth, number in enumerate(numbers := getattr(row, column), start=1):
            found = message.fields_by_number[number]
            if depth < len(numbers):
                message = found.message_type
            else:
                assert (found.name, found.type) == (field_name, found.TYPE_STRING)


def test_answers_that_are_concatenated_hold_nothing_but_repeated_fields() -> None:
    for path, row in METHODS.items():
        if row.merge is Merge.CONCATENATE:
            service, name = path.lstrip("/").split("/")
            reply = cri.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods_by_name[name].output_type
            assert all(found.is_repeated for found in reply.fields), path
