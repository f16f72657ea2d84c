"""Reads what proves an account, where an admin has put it: keys, certificates, passwords and tokens in files."""

import asyncio
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from multicri_proxy.api.errors import InvalidArgument, PermissionDenied, Unavailable
from multicri_slurm.accounts import Login, Proof
from multicri_slurm.keys import LONGEST_KEY, Keys

_LONGEST_FILE = 16_384
_READ_S = 20.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is shown to sshd. certificate: in OpenSSH's format, as in a ``-cert.pub`` file."""

    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    certificate: str | None = None


async def evidence_of(login: Login, keys: Keys) -> Evidence:
    """A pod's own credentials, which were checked when it was created, or what the admin's files hold now.

    Raises PermissionDenied naming the setting and the file that cannot be used.
    """
    if login.proof is None:
        return Evidence(password=login.password, private_key=login.private_key)
    return await read_evidence(login.proof, keys)


async def read_evidence(proof: Proof, keys: Keys) -> Evidence:
    """Raises PermissionDenied naming the setting and the file that cannot be used; Unavailable if reading it hangs."""
    place = f"{proof.setting}.key_file: {proof.key}"
    try:
        async with asyncio.timeout(_READ_S):
            evidence = await asyncio.to_thread(_read_all, proof, os.environ)
    except TimeoutError as error:
        raise Unavailable(f"{proof.setting}: its files could not be read within {_READ_S:g} s") from error
    if evidence.private_key is not None:
        if len(evidence.private_key) > LONGEST_KEY:
            raise PermissionDenied(
                f"{place}: is longer than {LONGEST_KEY} characters: must be Ed25519, ECDSA, or RSA of at most 4096 bits"
            )
        try:
            await keys.check(evidence.private_key, place)
        except InvalidArgument as error:
            raise PermissionDenied(str(error)) from error
    return evidence


async def read_token(proof: Proof) -> str:
    """What slurmrestd is shown, read anew: it is good for a short time only.

    Raises PermissionDenied naming the setting and the file that cannot be used; Unavailable if reading it hangs.
    """
    place = f"{proof.setting}.token_file"
    try:
        async with asyncio.timeout(_READ_S):
            text = await asyncio.to_thread(_read, place, proof.token, os.environ, secret=True)
    except TimeoutError as error:
        raise Unavailable(f"{place}: could not be read within {_READ_S:g} s") from error
    token = text.strip().removeprefix("SLURM_JWT=")  # as `scontrol token` prints it
    if not _TOKEN.fullmatch(token):
        raise PermissionDenied(f"{place}: {proof.token} holds no JSON web token: have `scontrol token` write one")
    return token


def _read_all(proof: Proof, environment: Mapping[str, str]) -> Evidence:
    def read(setting: str, path: str, *, secret: bool = True) -> str | None:
        return _read(f"{proof.setting}.{setting}", path, environment, secret=secret) if path else None

    password = read("password_file", proof.password)
    return Evidence(
        password=password.rstrip("\r\n") if password is not None else None,
        private_key=read("key_file", proof.key),
        certificate=read("certificate_file", proof.certificate, secret=False),
    )


def _read(setting: str, name: str, environment: Mapping[str, str], *, secret: bool) -> str:
    """Source of credentials by name: systemd.exec(5), LoadCredential=."""
    path = Path(name)
    if not path.is_absolute():
        if (directory := environment.get("CREDENTIALS_DIRECTORY")) is None:
            raise PermissionDenied(f"{setting}: {name} is no absolute path, and systemd hands over no credentials")
        path = Path(directory) / name
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if secret and (found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o077):
                raise PermissionDenied(
                    f"{setting}: {path} is open to others (owner {found.st_uid}, "
                    f"mode {stat.S_IMODE(found.st_mode):04o}): chown it to this user, chmod 0600"
                )
            content = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise PermissionDenied(f"{setting}: {path} cannot be read: {error.strerror}") from error
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise PermissionDenied(f"{setting}: {path} is not text") from None
    if len(content) > _LONGEST_FILE or not text.strip():
        raise PermissionDenied(f"{setting}: {path} is empty, or longer than {_LONGEST_FILE} bytes")
    return text
