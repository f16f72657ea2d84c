"""Programs of others, run to their end: with a limit of time and of output, and killed with their group if they fail.

A process is a transport here, not an `asyncio.subprocess.Process`: one whose child keeps its pipes can be let go of.
"""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from multicri_proxy.api.errors import ResourceExhausted, Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a program left. exit_code: negative for a signal."""

    exit_code: int
    stdout: bytes
    stderr: bytes


async def run(
    argv: Sequence[str], *, stdin: bytes, environment: Mapping[str, str], timeout_s: float, most_bytes: int
) -> Ended:
    """Run a program with this input and no other environment; cancelled, it is killed with its group.

    most_bytes: of its output, both streams together.
    Raises Unavailable if it cannot be started or does not end in time, ResourceExhausted if it says too much.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, output = await loop.subprocess_exec(
            lambda: _Output(most_bytes, argv[0]), *argv, env=dict(environment), start_new_session=True
        )
    except OSError as error:
        raise Unavailable(f"{argv[0]} cannot be started: {error.strerror}") from error
    try:
        pipe = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
        if not pipe.is_closing():  # it may have ended already
            pipe.write(stdin)
            pipe.close()
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(output.ended)
    except TimeoutError as error:
        raise Unavailable(f"{argv[0]} did not end within {timeout_s:g} s, and was killed") from error
    finally:
        if not output.is_gone:  # the process or one of its children holds on, and with it the group's number
            with suppress(ProcessLookupError):
                os.killpg(transport.get_pid(), signal.SIGKILL)
        output.ended.cancel()
        transport.close()
    return Ended(exit_code=transport.get_returncode() or 0, stdout=bytes(output.said[1]), stderr=bytes(output.said[2]))


class _Output(asyncio.SubprocessProtocol):
    def __init__(self, most_bytes: int, program: str) -> None:
        self.said = {1: bytearray(), 2: bytearray()}
        self.is_gone = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room_bytes = most_bytes
        self._program = program

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._room_bytes -= len(data)
        if self._room_bytes >= 0:
            self.said[fd] += data
        elif not self.ended.done():
            self.ended.set_exception(ResourceExhausted(f"{self._program} says too much, and was killed"))

    def connection_lost(self, exc: Exception | None) -> None:
        """It has exited, and its pipes are closed."""
        self.is_gone = True
        if not self.ended.done():
            self.ended.set_result(None)
