"""Which keys a host may have: from known_hosts, from the settings, or learnt at first sight if the settings say so.

Files are read and matched in a thread: a thousand hashed lines take 15 ms. What was found is kept until the file
changes; the parsed file is not, it takes a kilobyte a line.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from multicri_proxy.api.errors import PermissionDenied
from multicri_proxy.api.log import Log
from multicri_slurm.profiles import Profile
from multicri_slurm.sshlib import asyncssh

Trusted = Sequence[Any]
"""asyncssh's lists for one host: its keys, authorities, revoked keys, and four of X.509."""

_MOST_REMEMBERED = 1000
_Signature = tuple[int, int, int]

_log = Log("ssh")


class KnownHosts:
    """Files in OpenSSH's format, each with what was found in it. For all profiles."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, int], tuple[_Signature, Trusted]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def match(self, path: str, host: str, port: int) -> Trusted:
        """Raises OSError or ValueError if the file cannot be read."""
        async with self._one_at_a_time:
            key = (path, host, port)
            signature = await asyncio.to_thread(_signature, path)
            if (known := self._found.get(key)) is not None and known[0] == signature:
                return known[1]
            found = await asyncio.to_thread(lambda: _match(Path(path).read_text("utf-8"), host, port))
            if len(self._found) >= _MOST_REMEMBERED:
                self._found.clear()
            self._found[key] = (signature, found)
            return found

    async def learn(self, path: str, host: str, port: int, key: str) -> None:
        """Add a line, unless the host has one already. Raises OSError."""
        async with self._one_at_a_time:
            await asyncio.to_thread(_append, path, host, port, key)


class HostKeys:
    """The keys that one profile trusts."""

    def __init__(self, profile: Profile, files: KnownHosts) -> None:
        self._profile = profile
        self._settings = profile.settings
        self._files = files

    async def of(self, host: str, port: int) -> Trusted | None:
        """A host's keys; None if it is not known. Raises PermissionDenied if a file cannot be read."""
        settings = self._settings
        if settings.host_key is not None and (host, port) == (settings.host, settings.port):
            return _match(f"{_pattern(host, port)} {settings.host_key}", host, port)
        trusted = await self._in_file("known_hosts", settings.known_hosts, host, port)
        if trusted is None and settings.host_key_policy == "tofu":
            trusted = await self._in_file("learnt_hosts", settings.learnt_hosts, host, port)
        return trusted

    @property
    def learns(self) -> bool:
        """Whether the key of a host that is not known is taken as it comes."""
        return self._settings.host_key_policy == "tofu"

    async def learn(self, host: str, port: int, key: str) -> None:
        """Keep a host's key, as in a .pub file. Raises PermissionDenied if it cannot be kept."""
        path = self._settings.learnt_hosts
        try:
            await self._files.learn(path, host, port, key)
        except OSError as error:
            raise PermissionDenied(
                f"{self._profile.section}.learnt_hosts: {path} cannot be written: {error.strerror}"
            ) from error
        _log.warning("host key taken at first sight", host=host, port=port, key=key, kept_in=path)

    def unknown(self, host: str, port: int) -> PermissionDenied:
        path = self._settings.known_hosts
        return PermissionDenied(
            f"{self._named(host)}: there is no host key for it in {path}: an admin adds one "
            f"(ssh-keyscan -p {port} {host} >> {path}, after checking it)"
        )

    def changed(self, host: str, port: int) -> PermissionDenied:
        settings = self._settings
        if settings.host_key is not None and (host, port) == (settings.host, settings.port):
            place = f"{self._profile.section}.host_key"
        else:
            place = settings.known_hosts + (f" or {settings.learnt_hosts}" if self.learns else "")
        return PermissionDenied(
            f"{self._named(host)}: its host key is not the one in {place}; "
            f"if it was changed on purpose, put the new one there (ssh-keyscan -p {port} {host})"
        )

    def _named(self, host: str) -> str:
        """Who has said that we go there."""
        if any(jump.host == host for jump in self._settings.proxy_jump):
            return f"{self._profile.section}.proxy_jump: {host}"
        return f"{self._profile.section}.host={host}" if host == self._settings.host else f"CLUSTER_HOST={host}"

    async def _in_file(self, setting: str, path: str, host: str, port: int) -> Trusted | None:
        """What a file has of a host. One that is not there yet has nothing, if it is ours to write."""
        try:
            trusted = await self._files.match(path, host, port)
        except FileNotFoundError as error:
            if self.learns:
                return None
            raise PermissionDenied(f"{self._profile.section}.{setting}: {path} is not there") from error
        except (OSError, ValueError) as error:
            raise PermissionDenied(f"{self._profile.section}.{setting}: {path} cannot be read: {error}") from error
        keys, authorities, revoked, *_ = trusted
        return trusted if keys or authorities or revoked else None


def _signature(path: str) -> _Signature:
    found = Path(path).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _match(text: str, host: str, port: int) -> Trusted:
    match: Callable[..., Trusted] = asyncssh.match_known_hosts
    return match(asyncssh.import_known_hosts(text), host, "", port)


def _pattern(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


def _append(path: str, host: str, port: int, key: str) -> None:
    """Write it anew beside the old one: no crash leaves half a line, and nobody else can write to it."""
    target = Path(path)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = ""
    with suppress(FileNotFoundError):
        text = target.read_text("utf-8")
    keys, *_ = _match(text, host, port)
    if keys:
        return
    with NamedTemporaryFile("w", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:  # 0600
        try:
            file.write(f"{text}{_pattern(host, port)} {key}\n")
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink()
            raise
