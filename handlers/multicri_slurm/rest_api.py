"""slurmrestd, asked: one question, one connection, within limits. What its answers mean is told by rest_answers.py.

Each connection shows the token as it is in its file then. A connection that is not kept is no loss: jobs are asked for
every few seconds at most, and it is certain what a question that failed has to do with the one before it.
Source: rest_api.html, rest.html (JWT) of Slurm 24.11.
"""

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import h11

from multicri_proxy.api.errors import FailedPrecondition, PermissionDenied, Unavailable
from multicri_slurm.accounts import Login
from multicri_slurm.proofs import read_token
from multicri_slurm.settings import Settings

VERSIONS = ("v0.0.45", "v0.0.44", "v0.0.43", "v0.0.42", "v0.0.41", "v0.0.40")
"""All of them were tried."""
AT_ONCE = 8
LONGEST_ANSWER_BYTES = 256 * 1024 * 1024
CLOSE_S = 2.0
_IN_A_PATH = re.compile(rb"/slurm\\?/(v[0-9]+[.][0-9]+[.][0-9]+)\\?/")


class NotSent(Unavailable):
    """Nothing of the question has left: whatever it asks for has not been done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """body: JSON, unless what answers is not slurmrestd."""

    status: int
    body: bytes


class RestApi:
    """A user's slurmrestd."""

    def __init__(self, login: Login, settings: Settings) -> None:
        if settings.rest_url is None or login.proof is None:
            raise AssertionError("settings that were not checked")
        self._url = urlsplit(settings.rest_url)
        self._login = login
        self._proof = login.proof
        self._settings = settings
        self._tls: ssl.SSLContext | None = None
        self._version = ""
        self._free = asyncio.Semaphore(AT_ONCE)
        self._busy = 0
        self._used_at = time.monotonic()

    def idle_s(self) -> float:
        """How long nothing was asked; 0 while something is."""
        return 0.0 if self._busy else time.monotonic() - self._used_at

    async def slurm(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Answer:
        """Ask slurmctld's part. path: behind the version, without a slash before it. body: to be said as JSON."""
        return await self._ask(method, f"/slurm/{await self.version()}/{path}", query, body)

    async def accounting(self, path: str, query: Mapping[str, str] | None = None) -> Answer:
        """Ask slurmdbd's part, which answers 404 where there is none."""
        return await self._ask("GET", f"/slurmdb/{await self.version()}/{path}", query, None)

    async def version(self) -> str:
        """The newest of the versions known here that it speaks; asked once.

        Raises FailedPrecondition if it speaks others alone, Unavailable if it does not say what it speaks.
        """
        for version in () if self._version else VERSIONS:
            answer = await self._ask("GET", f"/slurm/{version}/ping/", None, None)
            if answer.status == 200:
                self._version = version
                break
            if answer.status != 404:
                raise Unavailable(f"{self._login.account}: slurmrestd answers {answer.status} to a ping")
        if not self._version:
            schema = await self._ask("GET", "/openapi/v3", None, None)
            others = {version.decode() for version in _IN_A_PATH.findall(schema.body)}
            if not others:
                raise Unavailable(f"{self._login.account}: what answers does not speak slurmrestd's language")
            raise FailedPrecondition(
                f"{self._login.account}: slurmrestd speaks {', '.join(sorted(others))}, and here one of {VERSIONS[-1]} "
                f"(Slurm 23.11) to {VERSIONS[0]} (Slurm 26.05) is spoken"
            )
        return self._version

    async def _ask(self, method: str, path: str, query: Mapping[str, str] | None, body: object) -> Answer:
        """Raises Unavailable if there is no whole answer in time: what became of the question is then not known.

        Raises PermissionDenied if the token, or what is to prove the host, is refused.
        """
        account = self._login.account
        content = json.dumps(body).encode() if body is not None else b""
        target = f"{path}?{urlencode(query)}" if query else path
        self._busy += 1
        try:
            async with asyncio.timeout(self._settings.command_timeout_s), self._free:
                headers = [
                    ("Host", self._url.netloc or "localhost"),
                    ("Accept", "application/json"),
                    ("Connection", "close"),
                    ("X-SLURM-USER-NAME", account.username),
                    ("X-SLURM-USER-TOKEN", await read_token(self._proof)),
                    ("Content-Length", str(len(content))),
                    *([("Content-Type", "application/json")] if content else []),
                ]
                async with self._connected() as (reader, writer):
                    answer = await _exchange(
                        reader, writer, h11.Request(method=method, target=target, headers=headers), content
                    )
        except TimeoutError as error:
            raise Unavailable(f"{account}: slurmrestd does not answer in time") from error
        except (OSError, EOFError) as error:
            raise Unavailable(f"{account}: slurmrestd breaks off: {error}") from error
        except h11.ProtocolError as error:
            raise Unavailable(f"{account}: what answers is not slurmrestd: {error}") from error
        finally:
            self._busy -= 1
            self._used_at = time.monotonic()
        if answer.status in {401, 403, 511}:
            raise PermissionDenied(
                f"{account}: slurmrestd refuses the token: have a new one written to {self._proof.setting}.token_file"
            )
        return answer

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Raises NotSent, or PermissionDenied if the host is not proved."""
        account = self._login.account
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                reader, writer = await self._connect()
        except ssl.SSLError as error:
            raise PermissionDenied(
                f"{account}: slurmrestd's certificate is not trusted, set rest_ca_file: {error}"
            ) from error
        except (OSError, TimeoutError) as error:
            raise NotSent(f"{account}: slurmrestd cannot be reached: {error or 'no connection in time'}") from error
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._url.scheme == "unix":
            return await asyncio.open_unix_connection(self._url.path)
        if self._url.scheme == "https" and self._tls is None:
            self._tls = await asyncio.to_thread(_trusting, self._settings.rest_ca_file)
        host, port = self._settings.place or ("", 0)
        return await asyncio.open_connection(host, port, ssl=self._tls)


def _trusting(ca_file: str) -> ssl.SSLContext:
    """For a thread: a system has many authorities."""
    return ssl.create_default_context(cafile=ca_file or None)


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: h11.Request, content: bytes
) -> Answer:
    http = h11.Connection(h11.CLIENT)
    writer.write(http.send(request) or b"")
    writer.write(http.send(h11.Data(data=content)) or b"")
    writer.write(http.send(h11.EndOfMessage()) or b"")
    await writer.drain()
    status, body = 0, bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > LONGEST_ANSWER_BYTES:
                raise h11.RemoteProtocolError(f"an answer of more than {LONGEST_ANSWER_BYTES} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status=status, body=bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the connection ended before the answer")
