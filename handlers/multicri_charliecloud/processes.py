"""Processes of the node that are not our children, held so that a pid which is used again does no harm."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from multicri_charliecloud.supervisor import start_time


@dataclass(slots=True)
class Process:
    """One that lived when it was found. To be closed."""

    pid: int
    _descriptor: int
    _gone: asyncio.Event = field(default_factory=asyncio.Event)
    _watched: bool = False

    @classmethod
    def find(cls, pid: int, born: int) -> Self | None:
        """The one with this pid and start time; None if it is gone. Source: pidfd_open(2)."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return None
        try:
            if start_time(pid) == born:
                return cls(pid, descriptor)
        except (OSError, IndexError, ValueError):
            pass  # gone in between
        os.close(descriptor)
        return None

    def signal(self, number: int) -> None:
        """One that is gone is no error."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    async def wait(self) -> None:
        """Until it is gone."""
        if not self._watched:
            self._watched = True
            asyncio.get_running_loop().add_reader(self._descriptor, self._gone.set)
        await self._gone.wait()
        self._unwatch()

    def close(self) -> None:
        self._unwatch()
        os.close(self._descriptor)

    def _unwatch(self) -> None:
        if self._watched:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._watched = False


def own_program(module: str) -> Sequence[str]:
    """The words that run ``main`` of a module of this package, in a Python without anything else."""
    parent = str(Path(__file__).resolve().parent.parent)
    code = f"import sys; sys.path.insert(0, sys.argv.pop(1)); from {__package__}.{module} import main; main()"
    return (sys.executable, "-I", "-S", "-c", code, parent)
