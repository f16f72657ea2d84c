"""One kept SSH connection for each login: commands and files over it, within limits."""

from __future__ import annotations

import asyncio
import base64
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from multicri_proxy.api.errors import MulticriError, Unavailable
from multicri_slurm.accounts import Login
from multicri_slurm.dialing import Dialer, words
from multicri_slurm.host_keys import KnownHosts
from multicri_slurm.keys import Keys
from multicri_slurm.profiles import Profile, Profiles
from multicri_slurm.sshlib import asyncssh

OUTPUT_CAP_BYTES = 4 * 1024 * 1024
# With one for SFTP and one for `dialogue`: 9 of the 10 that sshd's MaxSessions allows by default.
SHORT_SESSIONS, LONG_SESSIONS = 5, 2
SESSION_TRIES = 1 + SHORT_SESSIONS + LONG_SESSIONS
REFUSED_FOR_S = 15.0  # asked more often with a wrong password, many a cluster locks the account

_Session = TypeVar("_Session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a remote command did. Output beyond the cap is left out."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Dialogue:
    """A remote command that stays, and answers one question after the other."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes], end: bytes, timeout_s: float) -> None:
        self._process = process
        self._end = end
        self._timeout_s = timeout_s

    async def ask(self, question: bytes) -> bytes:
        """The answer, its end included. Raises asyncssh.Error, OSError or TimeoutError: it is over then."""
        answer = b""
        async with asyncio.timeout(self._timeout_s):
            self._process.stdin.write(question)
            while not answer.endswith(self._end):
                piece = await self._process.stdout.read(65_536)
                if not piece or len(answer) > OUTPUT_CAP_BYTES:
                    raise asyncssh.ConnectionLost("a command that was to stay has ended, or does not cease to talk")
                answer += piece
        return answer


@dataclass(slots=True)
class _Link:
    """One SSH connection. retired: to be closed once nobody uses it any more."""

    connection: asyncssh.SSHClientConnection
    sftp: asyncssh.SFTPClient | None = None
    opening_sftp: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    retired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """An attempt to connect that failed. Whoever waited for it shares its error, and does not try in turn."""

    error: MulticriError
    at: float
    holds_until: float


class Connection:
    """A login's connection: opened when it is needed, opened again when it has died or something in it hangs."""

    def __init__(self, login: Login, dialer: Dialer) -> None:
        self._login = login
        self._dialer = dialer
        self._opening = asyncio.Lock()
        self._link: _Link | None = None
        self._failure: _Failure | None = None
        self._short = asyncio.Semaphore(SHORT_SESSIONS)
        self._long = asyncio.Semaphore(LONG_SESSIONS)
        self._busy = 0
        self._used_at = time.monotonic()

    @property
    def profile(self) -> Profile:
        return self._dialer.profile

    def idle_s(self) -> float:
        """How long it was not used; 0 while it is."""
        return 0.0 if self._busy else time.monotonic() - self._used_at

    async def run(self, argv: Sequence[str], stdin: bytes, timeout_s: float, *, long: bool = False) -> Result:
        """Run one command, its words quoted.

        long: for what takes minutes, so that it keeps nothing else waiting.
        Raises Unavailable if the connection dies or the time is over: what the command did is then not known.
        """

        async def opening(link: _Link) -> asyncssh.SSHClientProcess[bytes]:
            return await link.connection.create_process(shlex.join(argv), encoding=None)

        async with self._long if long else self._short, self._errors(), self._session(opening, timeout_s) as process:
            return await _talk(process, stdin)

    @asynccontextmanager
    async def dialogue(self, script: bytes, end: bytes, timeout_s: float) -> AsyncIterator[Dialogue]:
        """A shell that runs a script and stays.

        end: the last line of each answer. timeout_s: for each question.
        The script comes on stdin, like all others, but must leave there what follows it: a shell may read ahead.
        """
        command = shlex.join(("sh", "-c", f'eval "$(dd bs=1 count={len(script)} 2>/dev/null)"'))

        async def opening(link: _Link) -> asyncssh.SSHClientProcess[bytes]:
            async with asyncio.timeout(timeout_s):
                return await link.connection.create_process(command, encoding=None, stderr=asyncssh.DEVNULL)

        async with self._errors(), self._session(opening) as process:
            try:
                process.stdin.write(script)
                yield Dialogue(process, end, timeout_s)
            finally:
                process.close()

    @asynccontextmanager
    async def process(
        self, script: str, timeout_s: float, *, terminal: bool
    ) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
        """A shell that runs a script for as long as it is wanted: then it gets TERM, or its terminal hangs up.

        It comes as one word that every login shell leaves alone: stdin is the caller's.
        timeout_s: for the beginning. terminal: whether it has one, on which stderr is stdout.
        """
        encoded = base64.b64encode(script.encode("utf-8", "surrogateescape")).decode()
        command = f"exec sh -c 'eval \"$(echo {encoded} | base64 -d)\"'"

        async def opening(link: _Link) -> asyncssh.SSHClientProcess[bytes]:
            async with asyncio.timeout(timeout_s):
                return await link.connection.create_process(
                    command, encoding=None, term_type="xterm" if terminal else None
                )

        async with self._errors(), self._session(opening) as process:
            try:
                yield process
            finally:
                if process.exit_status is None and not process.is_closing():
                    process.terminate()
                process.close()

    @asynccontextmanager
    async def tcp(
        self, host: str, port: int, timeout_s: float
    ) -> AsyncIterator[tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]]:
        """A connection from the login host to a port. Raises Unavailable if nobody listens there."""
        async with self._errors():
            link = await self._connected()
            link.users += 1
            try:
                async with asyncio.timeout(timeout_s):
                    reader, writer = await link.connection.open_connection(host, port, encoding=None)
                try:
                    yield reader, writer
                finally:
                    writer.close()
            except asyncssh.ChannelOpenError as error:
                place = f"port {port} of {host}"
                if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                    raise Unavailable(
                        f"{self._login.account}: sshd there forbids to connect to {place}: "
                        "it has to allow AllowTcpForwarding"
                    ) from error
                raise Unavailable(f"{self._login.account}: nobody answers at {place}: {error.reason}") from error
            finally:
                self._leave(link)

    @asynccontextmanager
    async def files(self, timeout_s: float | None = None) -> AsyncIterator[asyncssh.SFTPClient]:
        """The SFTP client, within a time limit. SFTP's own errors (no such file) come through as they are."""

        async def opening(link: _Link) -> tuple[_Link, asyncssh.SFTPClient]:
            async with link.opening_sftp:
                if link.sftp is None:
                    link.sftp = await link.connection.start_sftp_client()
                return link, link.sftp

        limit_s = timeout_s or self._dialer.profile.settings.command_timeout_s
        async with self._errors(), self._session(opening, limit_s) as (link, sftp):
            try:
                yield sftp
            except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
                link.sftp = None
                raise

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.connection.abort()

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        account = self._login.account
        self._busy += 1
        try:
            yield
        except asyncssh.ChannelOpenError as error:
            raise Unavailable(f"{account}: no session: {error.reason} (sshd's MaxSessions?)") from error
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
            raise Unavailable(f"{account}: the connection for files is lost") from error
        except asyncssh.SFTPError:
            raise
        except TimeoutError as error:
            raise Unavailable(f"{account}: no answer in time") from error
        except (asyncssh.Error, OSError) as error:
            raise Unavailable(f"{account}: {words(error)}") from error
        finally:
            self._busy -= 1
            self._used_at = time.monotonic()

    @asynccontextmanager
    async def _session(
        self, opening: Callable[[_Link], Awaitable[_Session]], timeout_s: float | None = None
    ) -> AsyncIterator[_Session]:
        """A session of the link, for one use, within a time limit if there is one.

        A link in which something hangs is retired: what hangs keeps its session, of which sshd allows few, whether or
        not we have given up on it. So is one that has no session left: nothing has run yet, and another link has some.
        """
        for tries_left in reversed(range(SESSION_TRIES)):
            link = await self._connected()
            link.users += 1
            try:
                async with asyncio.timeout(timeout_s):
                    try:
                        session = await opening(link)
                    except asyncssh.ChannelOpenError:
                        self._retire(link)
                        if tries_left:
                            continue
                        raise
                    yield session
                    return
            except TimeoutError:
                self._retire(link)
                raise
            finally:
                self._leave(link)

    def _leave(self, link: _Link) -> None:
        link.users -= 1
        if link.retired and not link.users:
            link.connection.abort()

    def _retire(self, link: _Link) -> None:
        link.retired = True
        if self._link is link:
            self._link = None

    async def _connected(self) -> _Link:
        asked_at = time.monotonic()
        async with self._opening:
            if self._link is not None and not self._link.connection.is_closed():
                return self._link
            self._link, failure = None, self._failure
            if failure is not None and (asked_at < failure.at or time.monotonic() < failure.holds_until):
                raise type(failure.error)(str(failure.error)) from failure.error
            try:
                self._link = _Link(await self._dialer.connect(self._login))
            except MulticriError as error:
                now = time.monotonic()
                held_s = REFUSED_FOR_S if isinstance(error.__cause__, asyncssh.PermissionDenied) else 0.0
                self._failure = _Failure(error=error, at=now, holds_until=now + held_s)
                raise
            return self._link


async def _talk(process: asyncssh.SSHClientProcess[bytes], stdin: bytes) -> Result:
    taken = not stdin
    try:
        with suppress(BrokenPipeError):  # a quick one has ended before we come to this
            process.stdin.write(stdin)
            process.stdin.write_eof()
            taken = True
        stdout, stderr = await asyncio.gather(_read(process.stdout), _read(process.stderr))
        await process.wait_closed()
    finally:
        process.close()
    if process.exit_status is None:
        raise asyncssh.ConnectionLost("the command ended without an exit status")
    if not taken and process.exit_status == 0:
        raise asyncssh.ConnectionLost("the command did not take its input")
    return Result(exit_code=process.returncode if process.returncode is not None else -1, stdout=stdout, stderr=stderr)


async def _read(stream: asyncssh.SSHReader[bytes]) -> bytes:
    kept: list[bytes] = []
    size = 0
    while piece := await stream.read(65_536):
        if size < OUTPUT_CAP_BYTES:
            kept.append(piece[: OUTPUT_CAP_BYTES - size])
            size += len(kept[-1])
    return b"".join(kept)


class Connections:
    """The kept connections, by login. Closed together."""

    def __init__(self, profiles: Profiles, keys: Keys) -> None:
        self._profiles = profiles
        self._keys = keys
        self._known_hosts = KnownHosts()
        self._by_digest: dict[str, Connection] = {}

    def to(self, login: Login) -> Connection:
        """Raises FailedPrecondition if the login's profile is gone."""
        digest = login.digest()
        if digest not in self._by_digest:
            dialer = Dialer(self._profiles.named(login.profile), self._known_hosts, self._keys)
            self._by_digest[digest] = Connection(login, dialer)
        return self._by_digest[digest]

    async def forget(self, login: Login) -> None:
        """Close the connection of a login that no container needs any more."""
        if connection := self._by_digest.pop(login.digest(), None):
            await connection.close()

    async def close(self) -> None:
        while self._by_digest:
            await self._by_digest.popitem()[1].close()
