"""Sealed texts and the key file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multicri_proxy.api.adapter import Secrets
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.secrets import SealedSecrets

KEY = bytes(range(32))


@given(st.binary(), st.text(st.characters(codec="utf-8")))
def test_what_was_sealed_opens(plaintext: bytes, bound_to: str) -> None:
    box: Secrets = SealedSecrets(KEY)
    assert box.open(box.seal(plaintext, bound_to), bound_to) == plaintext


@given(st.binary(), st.data())
def test_a_changed_text_does_not_open(plaintext: bytes, data: st.DataObject) -> None:
    box = SealedSecrets(KEY)
    sealed = bytearray(box.seal(plaintext, "a"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FailedPrecondition):
        box.open(bytes(sealed), "a")


@given(st.binary(max_size=40))
def test_any_other_bytes_do_not_open(text: bytes) -> None:
    with pytest.raises(FailedPrecondition):
        SealedSecrets(KEY).open(text, "a")


def test_a_text_bound_to_something_else_does_not_open() -> None:
    box = SealedSecrets(KEY)
    with pytest.raises(FailedPrecondition, match="container b was sealed with another key, or changed"):
        box.open(box.seal(b"secret", "container a"), "container b")


def test_two_seals_of_one_text_differ() -> None:
    box = SealedSecrets(KEY)
    assert box.seal(b"secret", "a") != box.seal(b"secret", "a")


def test_the_key_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "key"
    sealed = SealedSecrets.from_file(path).seal(b"secret", "a")
    assert SealedSecrets.from_file(path).open(sealed, "a") == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["key"]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    SealedSecrets.from_file(path)
    path.chmod(0o640)
    with pytest.raises(FailedPrecondition, match=r"/key is open to others .*mode 0640.*chmod 0600"):
        SealedSecrets.from_file(path)


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_key_of_the_wrong_length_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(FailedPrecondition, match=r"/key does not hold 32 bytes: restore it, or remove it"):
        SealedSecrets.from_file(path)


def test_a_link_in_place_of_the_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        SealedSecrets.from_file(tmp_path / "key")
    assert not (tmp_path / "elsewhere").exists()
