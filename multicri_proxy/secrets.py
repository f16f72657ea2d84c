"""Encrypts what must not be read from the ledger's file: AES-256-GCM, with a key in a file of its own."""

import os
import stat
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from multicri_proxy.api.errors import FailedPrecondition

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BYTES = 32
_NONCE_BYTES = 12
_VERSION = b"\x01"


class SealedSecrets:
    """The `Secrets` of one key. A sealed text is a version byte, a random nonce, then AES-GCM's output.

    A random nonce is safe for 2**32 texts a key (NIST SP 800-38D, 8.3); a proxy seals one for each container.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> "SealedSecrets":
        """Read the key, or make one if there is no such file. Blocks: for the program's start.

        Raises FailedPrecondition if the file is open to others or not a key.
        """
        if not os.path.lexists(path):
            _make_key(path)
        return cls(_read_key(path))

    @cached_property
    def _cipher(self) -> "AESGCM":
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  (7 MiB, for Slurm pods alone)

        return AESGCM(self._key)

    def seal(self, plaintext: bytes, bound_to: str) -> bytes:
        """Encrypt; only `open` with the same ``bound_to`` gives it back."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plaintext, _VERSION + bound_to.encode())

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """Raises FailedPrecondition if the key is another one or the text was changed."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415

        if sealed[:1] != _VERSION:
            raise FailedPrecondition(f"{bound_to} was not sealed by this version of multicri-proxy")
        nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, ciphertext, _VERSION + bound_to.encode())
        except (InvalidTag, ValueError) as error:
            raise FailedPrecondition(f"{bound_to} was sealed with another key, or changed since") from error


def _make_key(path: Path) -> None:
    """Write the key under another name, then link it: no crash leaves half a key, no second writer wins."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600, O_EXCL
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            os.link(name, path)
        except FileExistsError:
            return
        finally:
            Path(name).unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise FailedPrecondition(f"the key file {path} cannot be made: {error.strerror}") from error


def _read_key(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise FailedPrecondition(
                    f"the key file {path} is open to others (owner {found.st_uid}, "
                    f"mode {stat.S_IMODE(found.st_mode):04o}): chown it to this user, chmod 0600"
                )
            key = file.read(_KEY_BYTES + 1)
    except OSError as error:
        raise FailedPrecondition(f"the key file {path} cannot be read: {error.strerror}") from error
    if len(key) != _KEY_BYTES:
        raise FailedPrecondition(
            f"the key file {path} does not hold {_KEY_BYTES} bytes: restore it, "
            "or remove it to have a new key made (what the old one sealed is lost)"
        )
    return key
