"""Our transcription of CRI `runtime.v1` says what the interface says, and the generated modules are made from it.

runtime_v1_facts.tsv holds the facts of cri-api 0.36, one a line; they do not come from our runtime.proto:

    rpc      Service  Method  Request  Response  unary|server-stream|client-stream|bidi
    message  Message  number  field    single|repeated  type  [oneof:name]  [optional]
    enum     Enum     number  NAME

A map field appears as its entry message (`PodSandboxConfig.LabelsEntry`), a message without fields as four empty cells.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from multicri_proxy.cri.v1 import runtime_pb2

ROOT = Path(__file__).resolve().parents[2]
FACTS = Path(__file__).with_name("runtime_v1_facts.tsv")

Fact = tuple[str, ...]

CARDINALITY = {FieldDescriptorProto.LABEL_OPTIONAL: "single", FieldDescriptorProto.LABEL_REPEATED: "repeated"}
STREAMING = {
    (False, False): "unary",
    (False, True): "server-stream",
    (True, False): "client-stream",
    (True, True): "bidi",
}


def transcribed() -> FileDescriptorProto:
    file = FileDescriptorProto()
    runtime_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def last(full_name: str) -> str:
    return full_name.rpartition(".")[2]


def rpc_facts(file: FileDescriptorProto) -> Iterator[Fact]:
    for service in file.service:
        for method in service.method:
            streaming = STREAMING[method.client_streaming, method.server_streaming]
            yield "rpc", service.name, method.name, last(method.input_type), last(method.output_type), streaming


def enum_facts(prefix: str, enums: Iterable[EnumDescriptorProto]) -> Iterator[Fact]:
    for enum in enums:
        for value in enum.value:
            yield "enum", prefix + enum.name, str(value.number), value.name


def message_facts(prefix: str, messages: Iterable[DescriptorProto]) -> Iterator[Fact]:
    for message in messages:
        name = prefix + message.name
        if not message.field:
            yield "message", name, "", "", "", ""
        for field in message.field:
            kind = last(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
            extra: Fact = ()
            if field.proto3_optional:
                extra = ("optional",)
            elif field.HasField("oneof_index"):
                extra = ("oneof:" + message.oneof_decl[field.oneof_index].name,)
            yield "message", name, str(field.number), field.name, CARDINALITY[field.label], kind, *extra
        yield from message_facts(name + ".", message.nested_type)
        yield from enum_facts(name + ".", message.enum_type)


def transcribed_facts() -> list[Fact]:
    file = transcribed()
    return [*rpc_facts(file), *message_facts("", file.message_type), *enum_facts("", file.enum_type)]


def known_facts() -> list[Fact]:
    return [tuple(line.split("\t")) for line in FACTS.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["rpc", "message", "enum"])
def test_the_transcription_states_the_known_facts_and_no_others(kind: str) -> None:
    transcribed_ones = sorted(fact for fact in transcribed_facts() if fact[0] == kind)
    known = sorted(fact for fact in known_facts() if fact[0] == kind)

    assert transcribed_ones == known


def test_there_are_41_rpcs_and_170_messages() -> None:
    file = transcribed()

    assert sum(len(service.method) for service in file.service) == 41
    assert len(file.message_type) == 170


def test_method_paths_begin_with_the_interfaces_package() -> None:
    assert {service.full_name for service in runtime_pb2.DESCRIPTOR.services_by_name.values()} == {
        "runtime.v1.RuntimeService",
        "runtime.v1.ImageService",
    }


def test_every_message_inside_another_is_a_map_of_strings() -> None:
    nested = [entry for message in transcribed().message_type for entry in message.nested_type]

    assert len(nested) == 28
    for entry in nested:
        assert entry.options.map_entry, entry.name
        assert [field.type for field in entry.field] == [FieldDescriptorProto.TYPE_STRING] * 2, entry.name


def test_strings_and_bytes_are_laid_out_as_the_interface_says() -> None:
    request = runtime_pb2.CreateContainerRequest(
        pod_sandbox_id="p",
        config=runtime_pb2.ContainerConfig(
            envs=[runtime_pb2.KeyValue(key="K", value=b"\xff")],
            labels={"a": "b"},
            stop_signal=runtime_pb2.SIGTERM,
        ),
    )

    assert request.SerializeToString(deterministic=True) == (
        b"\x0a\x01p"  # 1: pod_sandbox_id
        b"\x12\x13"  # 2: config
        b"\x32\x06\x0a\x01K\x12\x01\xff"  # 6: envs
        b"\x4a\x06\x0a\x01a\x12\x01b"  # 9: labels
        b"\x90\x01\x17"  # 18: stop_signal
    )


def generate_check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "protos" / "generate"), "--check"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The protos and the generated modules, to be spoilt."""
    for folder in ("protos", "multicri_proxy/cri"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_committed_modules_are_what_the_protos_generate() -> None:
    check = generate_check(ROOT)

    assert check.returncode == 0, check.stdout + check.stderr


def test_a_proto_changed_without_regenerating_is_noticed(copy: Path) -> None:
    proto = copy / "protos/cri/multicri_proxy/cri/v1/runtime.proto"
    proto.write_text(proto.read_text().replace("bytes value = 2;", "string value = 2;"))

    check = generate_check(copy)

    assert check.returncode == 1
    assert "differs: multicri_proxy/cri/v1/runtime_pb2.py\n" in check.stdout
    assert "differs: multicri_proxy/cri/v1/runtime_pb2.pyi\n" in check.stdout


def test_a_module_that_is_missing_or_has_no_proto_is_noticed(copy: Path) -> None:
    folder = copy / "multicri_proxy/cri/v1"
    (folder / "runtime_pb2.pyi").rename(folder / "forgotten_pb2.pyi")

    check = generate_check(copy)

    assert check.returncode == 1
    assert check.stdout.splitlines() == [
        "without a proto: multicri_proxy/cri/v1/forgotten_pb2.pyi",
        "missing: multicri_proxy/cri/v1/runtime_pb2.pyi",
    ]


def test_the_file_is_registered_under_a_path_of_our_own() -> None:
    assert runtime_pb2.DESCRIPTOR.name == "multicri_proxy/cri/v1/runtime.proto"
    assert runtime_pb2.DESCRIPTOR.package == "runtime.v1"


ADD_AN_API_PROTO = """
from google.protobuf import descriptor_pb2, descriptor_pool
theirs = descriptor_pb2.FileDescriptorProto(name="api.proto", package="somebody.else", syntax="proto3")
theirs.message_type.add(name="Container")
descriptor_pool.Default().Add(theirs)
"""
IMPORT_OURS = """
from multicri_proxy.cri.v1 import runtime_pb2
"""
USE_BOTH = """
pool = descriptor_pool.Default()
assert pool.FindFileByName("api.proto").package == "somebody.else"
assert pool.FindMessageTypeByName("runtime.v1.Container") is runtime_pb2.Container.DESCRIPTOR
assert pool.FindMessageTypeByName("somebody.else.Container").fields == []
"""


@pytest.mark.parametrize(
    "steps", [(ADD_AN_API_PROTO, IMPORT_OURS), (IMPORT_OURS, ADD_AN_API_PROTO)], ids=["theirs first", "ours first"]
)
def test_somebody_elses_api_proto_lives_beside_ours_in_one_process(steps: tuple[str, str]) -> None:
    """In a process of its own: the default pool cannot forget a file."""
    program = "".join([*steps, USE_BOTH])

    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.returncode == 0, run.stderr
