"""What can be asked of a cluster, as one of its users, whichever way leads there.

`cluster.Cluster` asks over SSH, `rest_cluster.RestCluster` over Slurm's REST interface and a shared directory. All
verbs have time limits, and raise Unavailable where the cluster is silent, which says nothing about its jobs.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from multicri_proxy.api.ids import JobId
from multicri_slurm.accounts import Login
from multicri_slurm.answers import JobLine
from multicri_slurm.files import Files
from multicri_slurm.image_verbs import BuildAnswer
from multicri_slurm.settings import Settings
from multicri_slurm.sites import History, Measured, Signal, Site
from multicri_slurm.sshlib import asyncssh


class Lengths(Protocol):
    """Says how long files are, again and again."""

    async def of(self, paths: tuple[str, ...]) -> Mapping[str, int]:
        """The length of each file that is there. paths: without white space."""
        ...


class ClusterVerbs(Protocol):
    """A login's view of its cluster."""

    @property
    def login(self) -> Login: ...

    @property
    def settings(self) -> Settings: ...

    def idle_s(self) -> float:
        """How long nothing was asked of it."""
        ...

    async def site(self, programs: Collection[str] = (), prerun: bytes | None = None) -> Site:
        """What there is where jobs are made, after a prerun text; asked once for each.

        Raises FailedPrecondition if it is no place to run jobs.
        """
        ...

    def check_options(self, options: Sequence[str]) -> None:
        """Raises InvalidArgument for an option of sbatch's that this way has no word for."""
        ...

    # -- images --------------------------------------------------------------------------------------------------

    async def use_image(self, directory: str, file_name: str, holder: str) -> int | None:
        """Note that a container uses an image, which keeps it there; its size in bytes, or None if it is not there."""
        ...

    async def build_image(
        self, directory: str, file_name: str, script: str, commands: Sequence[str], prerun: bytes | None
    ) -> BuildAnswer:
        """Have an image built, unless it is there. Waits for another build of the same image."""
        ...

    async def send_file(self, path: str, sent: str, offset: int, arrived: Callable[[int], None]) -> list[str]:
        """Copy a file of the node from an offset on; returns errors that it has got over. Raises what `Files` raises.

        path: on the node. sent: in the cluster. arrived: is told how many bytes are there.
        """
        ...

    async def arrive_image(self, directory: str, file_name: str, sent: str, sha256: str) -> BuildAnswer | None:
        """Make an image of a file that was sent; None if it is not what was sent, and is gone."""
        ...

    async def look_at_image(self, volume: str, file: str, scheme: str) -> Mapping[str, tuple[str, ...]]:
        """What image_scripts.LOOK says of a file below a volume's directory."""
        ...

    async def verify_image(self, program: str, path: str, keys: bytes) -> Mapping[str, tuple[str, ...]]:
        """What image_scripts.VERIFY says of a SIF file, which is read whole."""
        ...

    async def forget_image(self, directory: str, name: str) -> bool:
        """Remove an image, of whatever builder, with all that is known of it; False if it is still needed."""
        ...

    # -- files ---------------------------------------------------------------------------------------------------

    async def make_directories(self, *paths: str) -> None:
        """Make them, with all that lead to them, for the account alone; those that are there are left as they are."""
        ...

    async def remove_directories(self, *paths: str, if_empty: Sequence[str] = ()) -> None:
        """Delete directories with all that is in them, and then others if nothing is in them."""
        ...

    def files(self) -> AbstractAsyncContextManager[Files]:
        """For more than one step; all of them within a command's time limit."""
        ...

    async def write_files(self, directory: str, files: Mapping[str, tuple[bytes, int]]) -> None:
        """Write files, each with its mode, readable by nobody else at any time."""
        ...

    async def read_piece(self, path: str, offset: int, size: int) -> bytes | None:
        """A piece of a file; empty at its end; None if there is no such file."""
        ...

    async def read_tail(self, path: str, size: int) -> bytes:
        """The end of a file; empty if there is no such file."""
        ...

    async def size_of(self, path: str) -> int | None:
        """The length of a file; None if there is no such file."""
        ...

    def sizes(self) -> AbstractAsyncContextManager[Lengths]:
        """A way to look at many files that costs one question a time."""
        ...

    async def refresh(self, directory: str) -> None:
        """Have a network file system look again for files that were not there."""
        ...

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def job_of(self, mode: Literal["submit", "find", "cancel"], directory: str, job_name: str) -> JobId | None:
        """The job of a container; None if there is none, which only ``find`` and ``cancel`` can say.

        submit: unless there is one. cancel: as find, and no submit shall follow.
        Raises Unavailable if it cannot be known, NotFound if the directory is gone, and what sbatch's refusal means.
        """
        ...

    async def queue(self) -> Mapping[JobId, JobLine]:
        """All jobs of the user that slurmctld lists, also those that have just ended."""
        ...

    async def history(self, job_ids: Sequence[JobId]) -> History:
        """What is known of jobs that are not in the queue. One that nobody tells of is asked for again."""
        ...

    async def usage(self, containers: Mapping[str, JobId]) -> Measured:
        """What running containers use, of those that are measured. containers: their jobs by their directories."""
        ...

    async def signal(self, name: Signal, job_id: JobId) -> None:
        """Ask Slurm to signal a job. That Slurm has acted on it is seen by the job's state, not here."""
        ...

    async def step_requested(
        self, mode: Literal["submit", "find", "cancel"], allocation_directory: str, directory: str
    ) -> bool:
        """Whether an allocation is asked for a container's step, which after ``submit`` it is.

        Raises Unavailable if that cannot be known, NotFound if the container's directory is gone,
        FailedPrecondition if the allocation begins no steps any more.
        """
        ...

    async def signal_step(self, name: Signal, job_id: JobId, allocation_directory: str, directory: str) -> None:
        """Have Slurm signal a container's step; one that has not begun never will."""
        ...

    # -- ways into a job -----------------------------------------------------------------------------------------

    def process(
        self, script: str, *, terminal: bool
    ) -> AbstractAsyncContextManager["asyncssh.SSHClientProcess[bytes]"]:
        """A script for sh, for as long as it is wanted, with the caller's streams.

        Raises Unimplemented where nobody can log in, as `tcp` does.
        """
        ...

    def tcp(
        self, host: str, port: int
    ) -> AbstractAsyncContextManager[tuple["asyncssh.SSHReader[bytes]", "asyncssh.SSHWriter[bytes]"]]:
        """A connection to a port of a host, as the login host names it."""
        ...
