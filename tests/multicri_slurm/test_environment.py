"""Environment files, read back by what stands nearest to each runtime."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multicri_slurm.environment import (
    LONGEST_STRING_BYTES,
    apptainer_env_file,
    charliecloud_env0_file,
    charliecloud_env_file,
    check_sizes,
    home_of,
)

from multicri_proxy.api.errors import InvalidArgument

_names = st.from_regex(r"MC_[A-Za-z0-9_]{0,10}", fullmatch=True)
_values = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60).map(str.encode)


@settings(max_examples=60)
@given(st.dictionaries(_names, _values, max_size=6))
def test_a_shell_reads_apptainers_file_exactly(env: dict[str, bytes]) -> None:
    try:
        text = apptainer_env_file(env)
    except InvalidArgument:
        assert any(b"\r\n" in value for value in env.values())
        return
    script = b"set -a\n" + text + b"env -0\n"
    done = subprocess.run(["bash", "--norc"], input=script, capture_output=True, check=True, env={})
    found = dict(entry.split(b"=", 1) for entry in done.stdout.split(b"\0") if entry)
    assert {name.encode(): value for name, value in env.items()}.items() <= found.items()
    assert all(name.startswith(b"MC_") or name in {b"_", b"PWD", b"SHLVL"} for name in found)


@given(st.dictionaries(_names, st.binary(max_size=60).filter(lambda v: b"\0" not in v), max_size=6))
def test_charlieclouds_rules_give_every_value_back(env: dict[str, bytes]) -> None:
    entries = charliecloud_env0_file(env).split(b"\0")[:-1]
    found = {}
    for entry in entries:
        name, value = entry.removesuffix(b"\n").split(b"=", 1)
        found[name.decode()] = value[1:-1] if value[:1] == value[-1:] == b"'" and len(value) > 1 else value
    assert found == env


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"A.B": b""}, "A.B"),
        ({"1A": b""}, "1A"),
        ({"UID": b"0"}, "keeps this name for itself"),
        ({"A": b"\r\n"}, "carriage return"),
        ({"A": b"\xff"}, "not UTF-8"),
    ],
)
def test_what_apptainer_cannot_carry_is_refused(env: dict[str, bytes], reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        apptainer_env_file(env)


def test_an_old_charliecloud_carries_no_newline() -> None:
    assert charliecloud_env_file({"A": b"it's"}) == b"A='it's'\n"
    with pytest.raises(InvalidArgument, match=r"0\.34"):
        charliecloud_env_file({"A": b"a\nb"})


def test_home_goes_by_an_option_and_must_fit_it() -> None:
    assert home_of({}) is None
    assert home_of({"HOME": b"/my home"}) == "/my home"
    assert b"HOME" not in apptainer_env_file({"HOME": b"/x"})
    for wrong in (b"", b"x", b"/a:b", b"/a,b", b"/a\n", b"/\xff"):
        with pytest.raises(InvalidArgument, match="HOME"):
            home_of({"HOME": wrong})


def test_what_linux_would_not_take_is_refused_with_its_size() -> None:
    check_sizes(["x" * LONGEST_STRING_BYTES], {"A": b"x" * (LONGEST_STRING_BYTES - 2)})
    with pytest.raises(InvalidArgument, match="word 1 has 131072 bytes"):
        check_sizes(["a", "x" * (LONGEST_STRING_BYTES + 1)], {})
    with pytest.raises(InvalidArgument, match="env A: name and value have 131072 bytes"):
        check_sizes([], {"A": b"x" * (LONGEST_STRING_BYTES - 1)})
    with pytest.raises(InvalidArgument, match="bytes together"):
        check_sizes([], {f"A{n}": b"x" * 131_000 for n in range(9)})
    with pytest.raises(InvalidArgument, match="are 16385 words and variables: at most 16384"):
        check_sizes(["x"] * 16_384, {"A": b""})
    with pytest.raises(InvalidArgument, match="NUL"):
        check_sizes(["a\0b"], {})
    with pytest.raises(InvalidArgument, match="NUL"):
        check_sizes([], {"A": b"\0"})
    for name in ("", "A=B", "A B", "A\n", "ä"):
        with pytest.raises(InvalidArgument, match="a name must"):
            check_sizes([], {name: b""})
