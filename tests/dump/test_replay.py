"""``multicri-proxy dump show`` and ``replay``: files that are read again."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from google.protobuf.message import Message
from interposer import backend as scripted

from dump.messages import call, create_container, run_pod_sandbox
from dump.test_attach import run
from multicri_proxy.api.errors import NotFound
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.compare import differences
from multicri_proxy.dump.format import Formatter
from multicri_proxy.dump.record import Kind, Record
from multicri_proxy.dump.redact import Redactor
from multicri_proxy.dump.render import json_render
from multicri_proxy.dump.rules import Rules
from multicri_proxy.local import LocalRuntime
from multicri_proxy.server import Server


class SmallRuntime:
    """Sandboxes and containers that are nothing but names. Ids are never the same twice."""

    numbers = itertools.count(1)

    def __init__(self) -> None:
        self.sandboxes: dict[str, cri.PodSandboxMetadata] = {}
        self.containers: dict[str, cri.CreateContainerRequest] = {}
        self.exit_code = 0
        self.pulled_as: list[str] = []

    async def run_pod_sandbox(self, request: cri.RunPodSandboxRequest) -> cri.RunPodSandboxResponse:
        sandbox_id = f"sandbox-{next(self.numbers)}"
        self.sandboxes[sandbox_id] = request.config.metadata
        return cri.RunPodSandboxResponse(pod_sandbox_id=sandbox_id)

    async def create_container(self, request: cri.CreateContainerRequest) -> cri.CreateContainerResponse:
        if request.pod_sandbox_id not in self.sandboxes:
            raise NotFound(f"sandbox {request.pod_sandbox_id}")
        container_id = f"container-{next(self.numbers)}"
        self.containers[container_id] = request
        return cri.CreateContainerResponse(container_id=container_id)

    async def container_status(self, request: cri.ContainerStatusRequest) -> cri.ContainerStatusResponse:
        if request.container_id not in self.containers:
            raise NotFound(f"container {request.container_id}")
        return cri.ContainerStatusResponse(
            status=cri.ContainerStatus(
                id=request.container_id, created_at=next(self.numbers), exit_code=self.exit_code
            ),
            info={"pid": str(next(self.numbers))},
        )

    async def stream_containers(
        self, request: cri.StreamContainersRequest
    ) -> AsyncIterator[cri.StreamContainersResponse]:
        for container_id, created in self.containers.items():
            container = cri.Container(id=container_id, pod_sandbox_id=created.pod_sandbox_id)
            yield cri.StreamContainersResponse(containers=[container])

    async def pull_image(self, request: cri.PullImageRequest) -> cri.PullImageResponse:
        self.pulled_as.append(request.auth.username)
        return cri.PullImageResponse(image_ref="sha256:1")


def write(path: Path, *records: Record) -> None:
    formatter = Formatter(rules=Rules.parse("full:.*"), render=json_render(), redactor=Redactor())
    path.write_text("".join(formatter.text(record) or "" for record in records))


def status(container_id: str = "c0c0", exit_code: int = 0) -> Record:
    return call(
        "ContainerStatus",
        cri.ContainerStatusRequest(container_id=container_id),
        cri.ContainerStatusResponse(
            status=cri.ContainerStatus(id=container_id, created_at=17, exit_code=exit_code), info={"pid": "1"}
        ),
    )


def numbered(*records: Record) -> list[Record]:
    return [replace(record, call_id=str(number), time_ns=number) for number, record in enumerate(records, 1)]


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return tmp_path / "dump.json"


async def replayed(tmp_path: Path, dump: Path, service: object, *flags: str) -> int:
    path = tmp_path / "runtime.sock"
    async with Server(LocalRuntime("small", service), path, drain_s=0.1):
        return await asyncio.to_thread(run, "replay", str(dump), "--endpoint", f"unix://{path}", *flags)


async def test_ids_are_mapped_from_the_new_replies(
    tmp_path: Path, dump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(dump, *numbered(run_pod_sandbox(), create_container(), status()))
    runtime = SmallRuntime()
    assert await replayed(tmp_path, dump, runtime, "--compare") == 0
    ((sandbox_id, metadata),) = runtime.sandboxes.items()
    (container,) = runtime.containers.values()
    assert (container.pod_sandbox_id, metadata.name) == (sandbox_id, "web")
    assert capsys.readouterr().out.splitlines() == [
        "same       RunPodSandbox                OK",
        "same       CreateContainer              OK",
        "same       ContainerStatus              OK",
        "3 calls sent, 0 skipped, 2 ids mapped, 0 differ",
    ]


async def test_calls_are_sent_in_the_order_in_which_they_began(tmp_path: Path, dump: Path) -> None:
    ran, created = numbered(run_pod_sandbox(), create_container())
    write(dump, created, ran)
    assert await replayed(tmp_path, dump, SmallRuntime(), "--compare") == 0


async def test_what_differs_is_told(tmp_path: Path, dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(dump, *numbered(run_pod_sandbox(), create_container(), status(exit_code=3), status("unknown")))
    assert await replayed(tmp_path, dump, SmallRuntime(), "--compare") == 1
    assert capsys.readouterr().out.splitlines()[2:] == [
        "differs    ContainerStatus              OK",
        "           status.exit_code: 3 → absent",
        "differs    ContainerStatus              NOT_FOUND",
        "           status: OK → NOT_FOUND",
        "4 calls sent, 0 skipped, 2 ids mapped, 2 differ",
    ]


async def test_without_comparing_nothing_differs(
    tmp_path: Path, dump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(dump, *numbered(status("unknown")))
    assert await replayed(tmp_path, dump, SmallRuntime()) == 0
    assert "sent       ContainerStatus              NOT_FOUND" in capsys.readouterr().out


async def test_streams_are_compared_as_a_whole(tmp_path: Path, dump: Path) -> None:
    stream = replace(
        call("StreamContainers", cri.StreamContainersRequest()), kind=Kind.REQUEST, call_id="9", time_ns=9, code=""
    )
    replies = [
        replace(
            stream,
            kind=Kind.REPLY,
            request=None,
            reply=cri.StreamContainersResponse(
                containers=[cri.Container(id=container_id, pod_sandbox_id="5a5a")]
            ).SerializeToString(),
        )
        for container_id in ("c1c1", "c0c0")
    ]
    end = replace(stream, kind=Kind.END, request=None, code="OK")
    made = numbered(run_pod_sandbox(), create_container(), create_container("c1c1"))
    write(dump, *made, stream, *replies, end)
    assert await replayed(tmp_path, dump, SmallRuntime(), "--compare") == 0


async def test_what_cannot_be_sent_is_skipped_with_a_reason(
    tmp_path: Path, dump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = replace(call("GetContainerEvents", cri.GetEventsRequest()), kind=Kind.REQUEST)
    name_only = replace(status(), request=None, reply=None)
    write(dump, *numbered(events, name_only))
    assert await replayed(tmp_path, dump, SmallRuntime(), "--compare") == 0
    assert capsys.readouterr().out.splitlines() == [
        "skipped    GetContainerEvents           it never ends",
        "skipped    ContainerStatus              its request was not recorded",
        "0 calls sent, 2 skipped, 0 ids mapped, 0 differ",
    ]


async def test_images_are_pulled_without_the_credentials_that_were_redacted(tmp_path: Path, dump: Path) -> None:
    request = cri.PullImageRequest(auth=cri.AuthConfig(username="u", password="p"))
    write(dump, call("PullImage", request, cri.PullImageResponse(image_ref="sha256:1")))
    runtime = SmallRuntime()
    assert await replayed(tmp_path, dump, runtime, "--compare") == 0
    assert runtime.pulled_as == [""]


async def test_calls_of_unknown_methods_are_replayed_as_they_were(
    tmp_path: Path, dump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    formatter = Formatter(rules=Rules.parse("full:.*"), render=json_render(), redactor=None)
    same, other = (
        replace(status(), path=f"/next.year.Service/{name}", call_id=name, request=b"x", reply=b"y")
        for name in ("Same", "Other")
    )
    dump.write_text("".join(formatter.text(record) or "" for record in (same, other)))
    socket_path = tmp_path / "runtime.sock"
    async with scripted.serving(socket_path) as backend:
        backend.answers(same.path, b"y")
        backend.answers(other.path, b"zz")
        status_code = await asyncio.to_thread(run, "replay", str(dump), "--endpoint", str(socket_path), "--compare")
    assert status_code == 1
    assert capsys.readouterr().out.splitlines() == [
        "same       Same                         OK",
        "differs    Other                        OK",
        "           1 bytes → 2 other bytes",
        "2 calls sent, 0 skipped, 0 ids mapped, 1 differ",
    ]


async def test_a_runtime_that_is_not_there_is_an_error(
    tmp_path: Path, dump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(dump, status())
    endpoint = f"unix://{tmp_path}/nowhere.sock"
    assert await asyncio.to_thread(run, "replay", str(dump), "--endpoint", endpoint) == 1
    assert "no runtime answers on" in capsys.readouterr().err
    assert await asyncio.to_thread(run, "replay", str(dump), "--endpoint", "tcp://1.2.3.4") == 1
    assert "is no unix:///path" in capsys.readouterr().err


def test_show_filters_by_method_pod_and_container(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(dump, *numbered(status("c1c1"), run_pod_sandbox(), create_container(), status()))
    assert run("dump", "show", str(dump), "--method", "short:.*Container.*", "--pod", "default/web") == 0
    shown = [yaml.safe_load(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["method"], line["container"]) for line in shown] == [
        ("CreateContainer", "app"),
        ("ContainerStatus", "app"),
    ]
    assert run("dump", "show", str(dump), "--container", "c1", "--format", "json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_show_knows_names_from_later_in_the_file(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(dump, *numbered(status(), run_pod_sandbox(), create_container()))
    assert run("dump", "show", str(dump), "--method", "short:ContainerStatus", "--pod", "web") == 0
    assert "default/web" in capsys.readouterr().out


def test_show_reads_rotated_files_one_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older, newer = tmp_path / "dump.json.1", tmp_path / "dump.json"
    write(older, run_pod_sandbox())
    write(newer, create_container())
    assert run("dump", "show", str(older), str(newer), "--method", "short:.*") == 0
    methods = [yaml.safe_load(line)["method"] for line in capsys.readouterr().out.splitlines()]
    assert methods == ["RunPodSandbox", "CreateContainer"]


def test_show_tells_of_lines_that_it_cannot_read(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(dump, run_pod_sandbox())
    with dump.open("a") as file:
        file.write('{"time": "cut sho\n')
    assert run("dump", "show", str(dump)) == 0
    assert capsys.readouterr().err == f"multicri-proxy: 1 lines are no records, the first is {dump}:2\n"


def test_show_refuses_what_is_no_dump(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump.write_text("---\nmethod: Version\n")
    assert run("dump", "show", str(dump)) == 1
    assert "only dumps of --dump-format json can be read again" in capsys.readouterr().err
    assert run("dump", "show", f"{dump}.gone") == 1
    assert "No such file" in capsys.readouterr().err


def test_what_was_recorded_in_one_line_is_shown_in_one_line(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formatter = Formatter(rules=Rules.parse("short:.*"), render=json_render(), redactor=None)
    dump.write_text(formatter.text(create_container()) or "")
    assert run("dump", "show", str(dump)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_secrets_in_a_file_are_shown_only_when_asked_for(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = cri.PullImageRequest(auth=cri.AuthConfig(password="open sesame"))
    formatter = Formatter(rules=Rules.parse("full:.*"), render=json_render(), redactor=None)
    dump.write_text(formatter.text(call("PullImage", request)) or "")
    assert run("dump", "show", str(dump)) == 0
    assert "sesame" not in capsys.readouterr().out
    assert run("dump", "show", str(dump), "--show-secrets") == 0
    assert "sesame" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            cri.ListContainersResponse(containers=[cri.Container(id="a"), cri.Container(id="b")]),
            cri.ListContainersResponse(containers=[cri.Container(id="b"), cri.Container(id="A")]),
            [],
        ),
        (
            cri.ContainerStatsResponse(
                stats=cri.ContainerStats(cpu=cri.CpuUsage(timestamp=1, usage_nano_cores=cri.UInt64Value(value=1)))
            ),
            cri.ContainerStatsResponse(
                stats=cri.ContainerStats(cpu=cri.CpuUsage(timestamp=2, usage_nano_cores=cri.UInt64Value(value=2)))
            ),
            [],
        ),
        (cri.ExecResponse(url="http://1/a"), cri.ExecResponse(url="http://2/b"), []),
        (
            cri.ListContainersResponse(containers=[cri.Container(id="a")]),
            cri.ListContainersResponse(),
            ["containers: 1 items → 0"],
        ),
        (
            cri.ImageStatusResponse(image=cri.Image(uid=cri.Int64Value(value=1), size=3)),
            cri.ImageStatusResponse(image=cri.Image(uid=cri.Int64Value(value=2), size=3)),
            ["image.uid.value: 1 → 2"],
        ),
    ],
)
def test_ids_times_and_measurements_are_no_differences(before: Message, after: Message, expected: list[str]) -> None:
    assert differences(before, after, {"a": "A"}) == expected
