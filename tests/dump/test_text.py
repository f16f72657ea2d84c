"""YAML and JSON that every reader understands."""

import json
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from multicri_proxy.dump.text import json_text, yaml_line, yaml_text

TEXTS = st.text(max_size=30) | st.text(alphabet=string.printable + "\x85\u2028\u202e\ufeff€", max_size=30)
SCALARS = TEXTS | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)
KEYS = st.text(max_size=20)
VALUES = st.recursive(  # CRI has no lists of lists
    SCALARS,
    lambda inner: (
        st.dictionaries(KEYS, inner, max_size=4)
        | st.lists(SCALARS | st.dictionaries(KEYS, inner, max_size=4), max_size=4)
    ),
    max_leaves=12,
)
AWKWARD = [
    *("", "yes", "NO", "null", "~", "1.0", "1e5", "0x1f", "0b01", "0o7", "1:30", "2026-11-22", "5a5a", "12e34", "0b1a"),
    *("- a", "a: b", "a #b", "a\n", "a\n\n", "\na", " a\nb", "a \nb", "\ta\nb", "a\n\tb\n"),
    *("{}", "[]", "*a", "&a", "!a", "%a", "@a", "`a`", "?", ":", "-", "=", "<<", "...", "---"),
]


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_yaml_is_read_as_what_was_written(values: dict[str, object]) -> None:
    text = yaml_text(values)
    assert yaml.safe_load(text) == (values or None)
    assert not [character for character in text if character < " " and character not in "\n\t"]


@given(st.dictionaries(KEYS, SCALARS, max_size=5))
def test_a_line_of_yaml_is_read_as_what_was_written(values: dict[str, object]) -> None:
    text = yaml_line(values)
    assert yaml.safe_load(text) == values
    assert "\n" not in text


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_stay_texts(text: str) -> None:
    assert yaml.safe_load(yaml_text({text: text, "list": [text]})) == {text: text, "list": [text]}
    assert yaml.safe_load(yaml_line({text: text})) == {text: text}


@given(VALUES)
def test_json_is_what_the_library_writes(value: object) -> None:
    assert json_text(value) == json.dumps(value, separators=(",", ":"))


def test_ids_images_and_paths_stand_bare_and_files_line_by_line() -> None:
    values = {"id": "5a5af00d", "image": "quay.io/a/b:1.0", "path": "/var/log/pods", "script": "#!/bin/sh\n\techo a\n"}
    assert yaml_text(values).splitlines() == [
        "id: 5a5af00d",
        "image: quay.io/a/b:1.0",
        "path: /var/log/pods",
        "script: |",
        "  #!/bin/sh",
        "  \techo a",
    ]
