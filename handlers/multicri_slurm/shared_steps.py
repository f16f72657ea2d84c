"""Steps of an allocation, asked for and signalled by files in a shared directory, as allocation_script.py has them.

Over SSH remote_scripts.py does the same where the files are. A directory is read for each look, since a network file
system remembers for a while which single names were not there.
"""

import posixpath
import time
from typing import Literal

from multicri_proxy.api.errors import FailedPrecondition, NotFound
from multicri_proxy.api.ids import JobId
from multicri_slurm.allocation_script import CANCELLED
from multicri_slurm.shared_files import SharedFiles
from multicri_slurm.sites import Signal

PLACES_OF_A_REQUEST = ("requests", "running", "withdrawn")
"""In the order in which it may move."""
KILLED = 137


class SharedSteps:
    """Of an account's allocations."""

    def __init__(self, files: SharedFiles) -> None:
        self._files = files

    async def requested(
        self, mode: Literal["submit", "find", "cancel"], allocation_directory: str, directory: str
    ) -> bool:
        """As `ClusterVerbs.step_requested` has it."""
        container = posixpath.basename(directory)
        own = await self._names(directory)
        if mode == "cancel":
            await self._files.replace(f"{directory}/cancelled", b"")
        for place in PLACES_OF_A_REQUEST:
            if container in await self._names_if_there(f"{allocation_directory}/{place}"):
                return True
        if mode != "submit":
            return False
        if "cancelled" in own:
            raise FailedPrecondition(f"{self._files.name}: {directory} was cancelled before it was started")
        try:
            await self._files.write(f"{allocation_directory}/requests/{container}".encode(), b"", 0o600)
        except NotFound as error:
            raise FailedPrecondition(f"{self._files.name}: the pod's allocation is over") from error
        return True

    async def signal(self, name: Signal, job_id: JobId, allocation_directory: str, directory: str) -> None:
        """As `ClusterVerbs.signal_step` has it; CANCEL, too, is said to the allocation's script."""
        container = posixpath.basename(directory)
        own = await self._names(directory)
        await self._files.replace(f"{directory}/cancelled", b"")  # before the look: a step that is being made sees it
        withdrawn = f"{allocation_directory}/withdrawn"
        try:
            await self._files.rename(
                f"{allocation_directory}/requests/{container}".encode(), f"{withdrawn}/{container}".encode()
            )
        except NotFound:
            if container not in await self._names_if_there(withdrawn):
                await self._files.write(f"{allocation_directory}/signals/{container}.{name}".encode(), b"", 0o600)
                return
        if "ended" not in own:
            lines = (f"code={KILLED}", f"reason={CANCELLED}", f"finished_ns={time.time_ns()}", f"job_id={job_id}", "")
            await self._files.replace(f"{directory}/exit", "\n".join(lines).encode())
            await self._files.replace(f"{directory}/ended", b"")

    async def _names(self, directory: str) -> set[str]:
        """What is in it. Raises NotFound if it is gone."""
        try:
            return {name.decode("utf-8", "replace") for name in await self._files.entries(directory.encode())}
        except NotFound as error:
            raise NotFound(f"{self._files.name}: {directory} is gone") from error

    async def _names_if_there(self, directory: str) -> set[str]:
        try:
            return await self._names(directory)
        except NotFound:
            return set()
