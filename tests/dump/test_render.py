"""What people and programs get to read."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dump.messages import call, create_container
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.entry import LARGEST_SHOWN_BYTES, entry_of
from multicri_proxy.dump.format import Formatter
from multicri_proxy.dump.record import Kind, Record, from_json_line
from multicri_proxy.dump.render import Render, json_render, yaml_render
from multicri_proxy.dump.rules import Level, Rules


def text_of(record: Record, render: Render | None = None, rules: str = "full:.*") -> str:
    formatter = Formatter(rules=Rules.parse(rules), render=render or yaml_render(), redactor=None)
    text = formatter.text(record)
    assert text is not None
    return text


def document(record: Record, rules: str = "full:.*") -> dict[str, object]:
    (found,) = yaml.safe_load_all(text_of(record, rules=rules))
    assert isinstance(found, dict)
    return found


def test_at_level_full_there_are_the_messages() -> None:
    shown = document(create_container())
    assert shown["request"]["pod_sandbox_id"] == "5a5a"  # type: ignore[index]
    assert shown["reply"] == {"container_id": "c0c0"}
    assert (shown["pod"], shown["container"], shown["code"]) == ("default/web", "app", "OK")


def test_at_level_name_there_is_one_line_which_is_yaml_too() -> None:
    text = text_of(create_container(), rules="short:.*")
    assert text.count("\n") == 1
    shown = yaml.safe_load(text)
    assert (shown["method"], shown["code"], shown["latency_ms"]) == ("CreateContainer", "OK", 1.235)
    assert (shown["pod"], shown["container"]) == ("default/web", "app")
    assert "request" not in shown


def test_a_failure_tells_its_details() -> None:
    shown = document(call("Version", cri.VersionRequest(), details="no: such\nthing"), rules="short:.*")
    assert (shown["code"], shown["details"]) == ("NOT_FOUND", "no: such\nthing")


def test_enums_at_zero_are_shown_for_zero_means_something() -> None:
    reply = cri.PodSandboxStatusResponse(status=cri.PodSandboxStatus(id="5a5a"))
    assert document(call("PodSandboxStatus", cri.PodSandboxStatusRequest(), reply))["reply"] == {
        "status": {"id": "5a5a", "state": "SANDBOX_READY"}
    }


def test_a_policys_change_is_shown_as_a_diff() -> None:
    record = create_container()
    changed = cri.CreateContainerRequest.FromString(record.request or b"")
    changed.config.linux.resources.cpuset_cpus = "0-3"
    shown = document(replace(record, changed_request=changed.SerializeToString()))
    diff = shown["policy_diff"]
    assert isinstance(diff, str)
    assert '+      cpuset_cpus: "0-3"' in diff.splitlines()
    assert not [line for line in diff.splitlines()[2:] if line.startswith("-")]


def test_what_cannot_be_decoded_is_shown_as_base64_with_its_size() -> None:
    record = replace(call("Version", cri.VersionRequest()), request=b"\xff\xff", request_size=2)
    assert document(record)["request_undecoded"] == {"size": 2, "base64": "//8="}
    unknown = replace(record, path="/next.year.Service/New")
    assert document(unknown)["request_undecoded"] == {"size": 2, "base64": "//8="}
    assert document(unknown)["method"] == "/next.year.Service/New"


def test_a_message_that_is_too_large_is_told_by_its_size() -> None:
    large = b"\n\x00" * (LARGEST_SHOWN_BYTES // 2 + 1)
    record = replace(create_container(), reply=large, reply_size=len(large))
    shown = document(record)
    assert shown["reply_not_shown"] == f"{len(large)} bytes, too large to show"
    assert "request" in shown


def test_missing_records_are_told() -> None:
    record = Record(kind=Kind.DROPPED, call_id="", path="", time_ns=0, records=17)
    assert yaml.safe_load(text_of(record)) == {"time": "1970-01-01T00:00:00.000000Z", "kind": "dropped", "records": 17}
    assert from_json_line(text_of(record, json_render())) == record


@pytest.mark.parametrize("rules", ["short:.*", "full:.*"])
def test_colour_is_all_that_a_terminal_gets_more(rules: str) -> None:
    for record in (create_container(), call("Version", cri.VersionRequest(), details="bad")):
        coloured = text_of(record, yaml_render(colour=True), rules)
        assert "\x1b[" in coloured
        bare = re.sub(r"\x1b\[\d+m", "", coloured)
        assert yaml.safe_load(bare) == yaml.safe_load(text_of(record, rules=rules))


@given(st.text(), st.text(), st.binary())
def test_yaml_says_what_the_messages_say_and_writes_nothing_to_the_terminal_besides(
    name: str, annotation: str, value: bytes
) -> None:
    request = cri.CreateContainerRequest(
        config=cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            annotations={"a": annotation},
            envs=[cri.KeyValue(key="x", value=value)],
        )
    )
    text = text_of(call("CreateContainer", request))
    shown = yaml.safe_load(text)["request"]["config"]
    assert shown.get("metadata", {}).get("name", "") == name
    assert shown["annotations"]["a"] == annotation
    assert not [character for character in text if character < " " and character != "\n"]


BODIES = st.none() | st.binary(max_size=40)


@given(
    record=st.builds(
        Record,
        kind=st.sampled_from([kind for kind in Kind if kind is not Kind.DROPPED]),
        call_id=st.text(max_size=9),
        path=st.sampled_from(["/runtime.v1.RuntimeService/Version", "/other/Thing", ""]),
        time_ns=st.integers(0, 2**62),
        latency_ns=st.integers(0, 2**40),
        timeout_s=st.none() | st.integers(0, 10**6).map(lambda ms: ms / 1000),
        owner=st.text(max_size=9),
        code=st.text(max_size=9),
        details=st.text(max_size=9),
        request=BODIES,
        changed_request=BODIES,
        reply=BODIES,
        request_size=st.integers(0, 99),
        reply_size=st.integers(0, 99),
        metadata=st.sampled_from([(), (("a", "b"), ("c-bin", b"\xff"))]),
        level=st.sampled_from([Level.NAME, Level.FULL]),
        pod=st.text(max_size=9),
        container=st.text(max_size=9),
    )
)
def test_a_line_of_json_gives_the_whole_record_back(record: Record) -> None:
    line = json_render(metadata=True)(entry_of(record))
    assert line.count("\n") == 1
    assert from_json_line(line) == record


def test_json_has_the_messages_for_jq_too() -> None:
    facts = json.loads(text_of(create_container(), json_render()))
    assert facts["request"]["config"]["metadata"]["name"] == "app"
    assert facts["reply"]["container_id"] == "c0c0"


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(json.dumps))
def test_what_is_no_record_is_refused(line: bytes | str) -> None:
    with pytest.raises(ValueError):
        from_json_line(line)
