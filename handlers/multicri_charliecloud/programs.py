"""The one place that runs programs on the node: a list of words, a time limit, a cap on what is read, the whole group
killed.
"""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from multicri_charliecloud.settings import Identity
from multicri_proxy.api.errors import FailedPrecondition, Unavailable

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LAST_OUTPUT_BYTES = 4096
PASSED_ON = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Of the daemon's own environment: how registries are reached."""


def environment(identity: Identity | None, home: str = "/") -> dict[str, str]:
    """A small one. ch-run and ch-image want to know USER."""
    user = identity.name if identity else str(os.geteuid())
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return kept | {"PATH": PATH, "HOME": home, "USER": user, "LANG": "C.UTF-8"}


def as_identity(words: Sequence[str], identity: Identity | None) -> list[str]:
    """It ends with us, however we end: the next daemon must not meet a build of ours."""
    ends_with_us = ("setpriv", "--pdeathsig=KILL")
    if identity is None:
        return [*ends_with_us, "--", *words]
    become = (f"--reuid={identity.user_id}", f"--regid={identity.group_id}", "--clear-groups", "--no-new-privs")
    return [*ends_with_us, *become, "--", *words]


async def run(words: Sequence[str], env: Mapping[str, str], timeout_s: float) -> bytes:
    """Returns the end of what it wrote, to either stream.

    Raises FailedPrecondition with that if its status is not 0, Unavailable if it takes too long.
    """
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(env),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            said = await _last_of(process)
            status = await process.wait()
    except TimeoutError as error:
        raise Unavailable(f"{_name(words)} did not end within {timeout_s:g} s, and was killed") from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if status != 0:
        raise FailedPrecondition(f"{_name(words)}: status {status}: {said.decode(errors='replace').strip()}")
    return said


async def _last_of(process: asyncio.subprocess.Process) -> bytes:
    said = b""
    assert process.stdout is not None  # noqa: S101  (it was asked for)
    while piece := await process.stdout.read(LAST_OUTPUT_BYTES):
        said = (said + piece)[-LAST_OUTPUT_BYTES:]
    return said


def _name(words: Sequence[str]) -> str:
    """The program that matters, without those that only prepare for it."""
    rest = [word for word in words if not word.startswith("-") and "=" not in word and word not in {"setpriv", "env"}]
    return Path(rest[0]).name if rest else words[0]
