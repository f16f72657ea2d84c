"""Secrets never appear in what is dumped."""

import base64
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import yaml
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from dump.doubles import RUNTIME
from dump.messages import call
from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.entry import entry_of
from multicri_proxy.dump.format import Formatter
from multicri_proxy.dump.record import Record, from_json_line
from multicri_proxy.dump.redact import REDACTED, Redactor
from multicri_proxy.dump.render import Render, json_render, yaml_render
from multicri_proxy.dump.rules import Rules

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

SECRETS = st.from_regex(r"[0-9a-f]{16}-[a-z/+=:\"{]{0,8}", fullmatch=True)
SECRET_NAMES = st.sampled_from(
    ["CLUSTER_HOST", "CLUSTER_X", "DB_PASSWORD", "aws_secret_access_key", "MyToken", "APIKEY", "GOOGLE_CREDENTIALS"]
)
RENDERS: list[Render] = [
    yaml_render(metadata=True),
    yaml_render(colour=True, metadata=True),
    json_render(metadata=True),
    json_render(decoded=False, metadata=True),
]


def in_auth(secret: str, field: str) -> Record:
    return call("PullImage", cri.PullImageRequest(auth=cri.AuthConfig(**{field: secret})), cri.PullImageResponse())


def in_variable(secret: str, name: str) -> Record:
    request = cri.CreateContainerRequest(
        config=cri.ContainerConfig(
            envs=[cri.KeyValue(key="A", value=b"a"), cri.KeyValue(key=name, value=secret.encode())]
        )
    )
    return call("CreateContainer", request, changed_request=request.SerializeToString() + b"\n\x01s")


def in_policys_variable(secret: str, name: str) -> Record:
    before = cri.CreateContainerRequest(config=cri.ContainerConfig(envs=[cri.KeyValue(key=name, value=b"old")]))
    after = cri.CreateContainerRequest(config=cri.ContainerConfig(envs=[cri.KeyValue(key=name, value=secret.encode())]))
    return call("CreateContainer", before, changed_request=after.SerializeToString())


def in_annotation(secret: str, name: str) -> Record:
    annotations = {LAST_APPLIED: json.dumps({"env": [{"name": name, "value": secret}]}), "other": "kept"}
    return call(
        "ListPodSandbox",
        cri.ListPodSandboxRequest(),
        cri.ListPodSandboxResponse(items=[cri.PodSandbox(), cri.PodSandbox(annotations=annotations)]),
    )


def in_nested_annotation(secret: str, name: str) -> Record:
    config = cri.PodSandboxConfig(annotations={LAST_APPLIED: secret})
    return call("CreateContainer", cri.CreateContainerRequest(sandbox_config=config))


def in_verbose_configuration(secret: str, name: str) -> Record:
    info = {
        "config": {"envs": [{"key": name, "value": secret}], "annotations": {LAST_APPLIED: secret}},
        "runtimeSpec": {"process": {"env": ["PATH=/bin", f"{name}={secret}"]}},
    }
    return call(
        "ContainerStatus",
        cri.ContainerStatusRequest(),
        cri.ContainerStatusResponse(info={"info": json.dumps(info), "pid": "17"}),
    )


def in_runtimes_configuration(secret: str, name: str) -> Record:
    info = {"registry": {"configs": {"r.example": {"auth": {"username": secret, "password": secret}}}}}
    return call("Status", cri.StatusRequest(), cri.StatusResponse(info={"config": json.dumps(info)}))


def in_broken_json(secret: str, name: str) -> Record:
    return call("Status", cri.StatusRequest(), cri.StatusResponse(info={"config": '{"a": "' + secret}))


def in_plain_info(secret: str, name: str) -> Record:
    return call("Status", cri.StatusRequest(), cri.StatusResponse(info={"x": f"{name}={secret}"}))


def in_url(secret: str, name: str) -> Record:
    token = re.sub("[^0-9a-f]", "", secret)
    return call("Exec", cri.ExecRequest(), cri.ExecResponse(url=f"http://127.0.0.1:1/exec/{token}"))


def in_metadata(secret: str, name: str) -> Record:
    metadata = (("authorization", secret), ("x-token", secret), ("cookie-bin", secret.encode()))
    return call("Version", cri.VersionRequest(), cri.VersionResponse(), metadata=metadata, trailing_metadata=metadata)


def in_what_is_no_message(secret: str, name: str) -> Record:
    request = cri.PullImageRequest(auth=cri.AuthConfig(password=secret))
    record = call("PullImage", request)
    return replace(record, request=(record.request or b"") + b"\xff")


def in_an_unknown_method(secret: str, name: str) -> Record:
    return replace(in_auth(secret, "password"), path="/next.year.ImageService/PullManyImages")


def in_an_old_version(secret: str, name: str) -> Record:
    return replace(in_variable(secret, name), path="/runtime.v1alpha2.RuntimeService/CreateContainer")


PLACES = [
    in_variable,
    in_policys_variable,
    in_annotation,
    in_nested_annotation,
    in_verbose_configuration,
    in_runtimes_configuration,
    in_broken_json,
    in_plain_info,
    in_url,
    in_metadata,
    in_what_is_no_message,
    in_an_unknown_method,
    in_an_old_version,
]


def dumped(record: Record, render: Render, rules: str = "full:.*") -> str:
    return Formatter(rules=Rules.parse(rules), render=render, redactor=Redactor()).text(record) or ""


def assert_absent(secret: str, text: str) -> None:
    """Neither as it is, nor in any base64 that is there, nor in base64 that somebody made of it before."""
    telling = re.match("[0-9a-f]{16}", secret)
    assert telling
    found = telling[0]
    assert found not in text
    for start in range(3):
        assert base64.b64encode(found.encode()[start : 12 + start])[:12].decode() not in text
    for piece in re.findall(r"[A-Za-z0-9+/]{8,}={0,2}", text):
        for start in range(4):
            whole = piece[start:]
            assert found.encode() not in base64.b64decode(whole[: len(whole) // 4 * 4])


@given(secret=SECRETS, name=SECRET_NAMES, place=st.sampled_from(PLACES), render=st.sampled_from(RENDERS))
def test_a_secret_never_appears(secret: str, name: str, place: Callable[[str, str], Record], render: Render) -> None:
    assert_absent(secret, dumped(place(secret, name), render))


@given(
    secret=SECRETS,
    field=st.sampled_from([field.name for field in cri.AuthConfig.DESCRIPTOR.fields]),
    render=st.sampled_from(RENDERS),
)
def test_a_registrys_credentials_never_appear(secret: str, field: str, render: Render) -> None:
    assert_absent(secret, dumped(in_auth(secret, field), render))


@given(secret=SECRETS, name=SECRET_NAMES, place=st.sampled_from(PLACES))
def test_without_redaction_everything_is_there(secret: str, name: str, place: Callable[[str, str], Record]) -> None:
    record = place(secret, name)
    text = Formatter(rules=Rules.parse("full:.*"), render=json_render(metadata=True), redactor=None).text(record)
    again = from_json_line(text or "")
    for part in ("request", "changed_request", "reply", "metadata", "trailing_metadata"):
        assert getattr(again, part) == getattr(record, part)


def test_a_credential_of_next_year_does_not_appear_either() -> None:
    unknown_field = b"\x92\x01\x10" + b"0123456789abcdef"
    auth = cri.AuthConfig.FromString(cri.AuthConfig(username="u").SerializeToString() + unknown_field)
    record = call("PullImage", cri.PullImageRequest(auth=auth))
    for render in RENDERS:
        assert_absent("0123456789abcdef-", dumped(record, render))


def test_what_is_no_secret_stays_as_it_was_to_the_byte() -> None:
    unknown_field = b"\x92\x7d\x02hi"
    request = cri.CreateContainerRequest(
        config=cri.ContainerConfig(envs=[cri.KeyValue(key="PATH", value=b"/bin")], annotations={"b": "1", "a": "2"})
    )
    record = call("CreateContainer", request)
    record = replace(record, request=(record.request or b"") + unknown_field)
    assert Redactor().entry(entry_of(record)).record.request == record.request


def test_what_surrounds_a_secret_stays() -> None:
    (document,) = yaml.safe_load_all(dumped(in_variable("0123456789abcdef-", "DB_PASSWORD"), RENDERS[0]))
    assert document["request"]["config"]["envs"] == [
        {"key": "A", "value": "a"},
        {"key": "DB_PASSWORD", "value": REDACTED},
    ]
    facts = json.loads(dumped(in_verbose_configuration("0123456789abcdef-", "DB_PASSWORD"), RENDERS[2]))
    info = json.loads(facts["reply"]["info"]["info"])
    assert info["runtimeSpec"]["process"]["env"] == ["PATH=/bin", f"DB_PASSWORD={REDACTED}"]
    assert facts["reply"]["info"]["pid"] == "17"


def test_the_names_of_secret_variables_can_be_chosen() -> None:
    request = cri.CreateContainerRequest(
        config=cri.ContainerConfig(
            envs=[cri.KeyValue(key=key, value=b"value") for key in ("DATABASE_URL", "PASSWORD", "CLUSTER_HOST")]
        )
    )
    entry = Redactor("^database_url$").entry(entry_of(call("CreateContainer", request)))
    shown: Message | None = entry.request
    assert isinstance(shown, cri.CreateContainerRequest)
    assert [env.value for env in shown.config.envs] == [REDACTED.encode(), b"value", REDACTED.encode()]
    with pytest.raises(InvalidArgument, match="is no regular expression"):
        Redactor("(")


def test_redacting_twice_changes_nothing() -> None:
    for place in PLACES:
        once = Redactor().entry(entry_of(place("0123456789abcdef-", "DB_PASSWORD")))
        assert Redactor().entry(entry_of(once.record)).record == once.record


def test_several_threads_may_begin_at_once() -> None:
    record = in_variable("0123456789abcdef-", "DB_PASSWORD")
    for _ in range(20):
        redactor = Redactor()
        with ThreadPoolExecutor(8) as threads:
            entries = list(threads.map(redactor.entry, [entry_of(record)] * 16))
        assert all(b"0123456789abcdef" not in (entry.record.request or b"") for entry in entries)


def test_the_original_is_left_alone() -> None:
    record = in_variable("0123456789abcdef-", "DB_PASSWORD")
    entry = entry_of(record)
    Redactor().entry(entry)
    assert entry == entry_of(record)


def test_paths_are_known() -> None:
    assert in_variable("0123456789abcdef-", "A_KEY").path == f"{RUNTIME}CreateContainer"
