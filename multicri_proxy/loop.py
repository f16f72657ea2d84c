"""The event loop: uvloop's, but for how it begins a child process.

uvloop forks, and runs Python in the fork before it becomes the program. In a process with threads, as gRPC's and ours,
that waits now and then for a lock whose holder was not forked, and the loop with it for ever. subprocess.Popen begins a
child by vfork(2), and runs nothing in it.
"""

import asyncio
import os
from asyncio.unix_events import _UnixSubprocessTransport  # type: ignore[attr-defined]
from collections.abc import Callable
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """asyncio's own transport for child processes, on uvloop; pidfds tell when they end (pidfd_open(2), Linux 5.3)."""

    async def subprocess_exec(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.SubprocessProtocol], *words: Any, **options: Any
    ) -> tuple[asyncio.SubprocessTransport, asyncio.SubprocessProtocol]:
        streams = [options.pop(name, asyncio.subprocess.PIPE) for name in ("stdin", "stdout", "stderr")]
        protocol, waiter = protocol_factory(), self.create_future()
        transport = _UnixSubprocessTransport(self, protocol, words, False, *streams, 0, waiter=waiter, **options)
        try:
            ended = os.pidfd_open(transport.get_pid())
            self.add_reader(ended, self._reap, ended, transport)
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    def _reap(self, ended: int, transport: Any) -> None:
        self.remove_reader(ended)
        os.close(ended)
        transport._process_exited(transport.get_extra_info("subprocess").wait())
