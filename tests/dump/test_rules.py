"""CRI Resource Manager's rule language."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.dump.rules import DEFAULT_RULES, Level, Rules
from multicri_proxy.methods import METHODS

NAMES = sorted({method.name for method in METHODS.values()})


def level(rules: str, method: str) -> Level:
    return Rules.parse(rules).level_of(method)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("off", Level.OFF),
        ("suppress", Level.OFF),
        ("name", Level.NAME),
        ("short", Level.NAME),
        ("full", Level.FULL),
        ("verbose", Level.FULL),
        ("FULL", Level.FULL),
    ],
)
def test_each_level_has_two_names_in_either_case(name: str, expected: Level) -> None:
    assert level(f"{name}:Version", "Version") is expected


def test_a_method_that_nothing_matches_is_off() -> None:
    assert level("full:Version", "Status") is Level.OFF
    assert level("", "Status") is Level.OFF


def test_an_omitted_level_is_that_of_the_rule_before_and_full_at_the_start() -> None:
    rules = "Version,short:Status,Exec"
    assert [level(rules, name) for name in ("Version", "Status", "Exec")] == [Level.FULL, Level.NAME, Level.NAME]


def test_the_last_match_wins() -> None:
    rules = "full:.*Message.*,off:Type2.*"
    assert level(rules, "Type1Message1") is Level.FULL
    assert level(rules, "Type2Message1") is Level.OFF


def test_an_exact_name_wins_over_what_comes_after_it() -> None:
    assert level("short:Version,full:.*,off:*", "Version") is Level.NAME


def test_a_star_alone_matches_everything() -> None:
    assert level("full:*", "AnythingAtAll") is Level.FULL
    assert level("full:.*,off:*", "Version") is Level.OFF


def test_a_regular_expression_matches_anywhere_in_a_name() -> None:
    assert level("full:(Start|Stop)", "UnStoppable") is Level.FULL


def test_a_plain_name_matches_itself_alone() -> None:
    assert level("full:Stop", "StopContainer") is Level.OFF


def test_commas_in_brackets_belong_to_the_pattern() -> None:
    assert level("full:S.{4,5}Container,short:[,V]ersion", "StartContainer") is Level.FULL
    assert level("full:S.{4,5}Container,short:[,V]ersion", "Version") is Level.NAME


def test_a_pattern_may_hold_a_colon() -> None:
    assert level("short:Version,(?:Create).*", "CreateContainer") is Level.NAME


def test_a_method_may_be_given_by_its_path() -> None:
    assert level("full:Version", "/runtime.v1.RuntimeService/Version") is Level.FULL
    assert level("full:Version", "/runtime.v1alpha2.RuntimeService/Version") is Level.FULL


def test_the_default_tells_of_changes_and_not_of_images() -> None:
    levels = {name: level(DEFAULT_RULES, name) for name in NAMES}
    assert levels["CreateContainer"] is levels["RunPodSandbox"] is levels["StopPodSandbox"] is Level.NAME
    assert levels["RemoveImage"] is levels["ListContainers"] is levels["ContainerStatus"] is Level.OFF


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ("loud:.*", "'loud' is no level; there are off, suppress, name, short, full, verbose"),
        (":.*", "'' is no level"),
        ("full:", "no pattern"),
        ("full:.*,", "no pattern"),
        ("full:(Create", "'(Create' is no regular expression: missing )"),
        ("full:*a", "is no regular expression: nothing to repeat"),
        ("full:" + "x" * 5000, "too long"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(rules: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(complaint)):
        Rules.parse(rules)


LEVELS = st.sampled_from(["off", "short", "full"])
PATTERNS = st.sampled_from(
    [*NAMES[:6], "*", ".*", ".*Image.*", "((Create)|(Start)).*", "^Stop", "S.{3,5}", "[A-C].*", r"\w+Status"]
)
RULES = st.lists(st.tuples(st.none() | LEVELS, PATTERNS), min_size=1, max_size=6)


def model(rules: list[tuple[str | None, str]], name: str) -> str:
    """The same, told in another way."""
    full, before = [], "full"
    for given_level, pattern in rules:
        before = given_level or before
        full.append((before, pattern))
    exact = [given_level for given_level, pattern in full if pattern == name]
    matching = [given_level for given_level, pattern in full if pattern == "*" or _found(pattern, name)]
    return [*matching[-1:], *exact[:1], "off"][-2 if exact else 0]


def _found(pattern: str, name: str) -> bool:
    return pattern != "*" and not pattern.isalpha() and bool(re.search(pattern, name))


@given(RULES, st.sampled_from(NAMES))
def test_any_rules_mean_what_upstream_says(rules: list[tuple[str | None, str]], name: str) -> None:
    text = ",".join(f"{given_level}:{pattern}" if given_level else pattern for given_level, pattern in rules)
    names = {"off": Level.OFF, "short": Level.NAME, "full": Level.FULL}
    assert level(text, name) is names[model(rules, name)]


@given(RULES)
def test_rules_survive_being_written_and_read(rules: list[tuple[str | None, str]]) -> None:
    parsed = Rules.parse(",".join(f"{given_level or 'off'}:{pattern}" for given_level, pattern in rules))
    assert Rules.parse(str(parsed)) == parsed


@given(st.text(max_size=60))
def test_any_text_is_rules_or_is_refused(text: str) -> None:
    try:
        rules = Rules.parse(text)
    except InvalidArgument:
        return
    rules.level_of("Version")
