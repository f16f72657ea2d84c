"""Where the key is that credentials are sealed with."""

from pathlib import Path

import pytest

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.app import key_file
from multicri_proxy.checking import load
from multicri_proxy.secrets import SealedSecrets


def test_the_setting_wins_then_what_systemd_gives_then_the_root_directory(tmp_path: Path) -> None:
    settings = load(flags={"root_dir": "/var/lib/m"}, environment={}, file=None)
    given = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert key_file(settings, {}) == key_file(settings, given) == Path("/var/lib/m/secret.key")
    (tmp_path / "secret.key").touch()
    assert key_file(settings, given) == tmp_path / "secret.key"
    own = load(flags={"secret_key_file": "/etc/keys/k"}, environment={}, file=None)
    assert key_file(own, given) == Path("/etc/keys/k")


def test_a_credential_of_systemds_can_be_read_only(tmp_path: Path) -> None:
    """Mode 0400, which is how systemd hands it over."""
    SealedSecrets.from_file(tmp_path / "secret.key")
    (tmp_path / "secret.key").chmod(0o400)
    box = SealedSecrets.from_file(tmp_path / "secret.key")
    assert box.open(box.seal(b"secret", "a"), "a") == b"secret"


def test_a_relative_path_of_the_key_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"secret_key_file \(from --secret-key-file\): 'k' is no absolute path"):
        load(flags={"secret_key_file": "k"}, environment={}, file=None)
