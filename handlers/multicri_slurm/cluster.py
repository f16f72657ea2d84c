"""What can be asked of a cluster over SSH, as one of its users: each verb is one remote script or one file.

Answers are read by answers.py; here is only who is asked what, with which limits, and what silence means.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Literal

from multicri_proxy.api.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from multicri_proxy.api.ids import JobId
from multicri_slurm import remote_scripts
from multicri_slurm.accounts import Login
from multicri_slurm.answers import (
    MARK,
    JobLine,
    Reading,
    StepUsage,
    facts,
    gathers_usage,
    read_usage_file,
    refusal_of_sbatch,
    sacct_jobs,
    says_no_accounting,
    says_nothing_of_slurm,
    says_unknown_job,
    scontrol_job,
    squeue_jobs,
    sstat_usage,
)
from multicri_slurm.files import Files
from multicri_slurm.image_sending import copy_apart
from multicri_slurm.image_verbs import LOCK_WAIT_S, ImageVerbs, check_locking
from multicri_slurm.mpi import types_named
from multicri_slurm.prerun import with_prerun
from multicri_slurm.settings import Settings
from multicri_slurm.sftp_files import SftpFiles
from multicri_slurm.sites import History, Measured, Signal, Site
from multicri_slurm.ssh import Connection, Dialogue
from multicri_slurm.sshlib import asyncssh
from multicri_slurm.states import is_over

SLURM_PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "flock")
LINES_AT_A_TIME = 500
MOST_JOBS_TO_SACCT, MOST_JOBS_TO_SCONTROL = 500, 50
MOST_READINGS = 100  # a command line holds so many directories anywhere
MOST_SITES = 20
_HOME = re.compile(r"/[A-Za-z0-9._/@+-]*", re.ASCII)


class Sizes:
    """Says how long files are."""

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self._paths: tuple[str, ...] = ()

    async def of(self, paths: tuple[str, ...]) -> Mapping[str, int]:
        """The length of each file that is there. paths: without white space."""
        question = "look\n"
        if paths != self._paths:
            self._paths, question = paths, f"{' '.join(paths)}\nlook\n"
        found = facts(await self._dialogue.ask(question.encode()))
        sized = (line.partition(" ") for line in found.get("size", ()))
        return {path: int(size) for size, _, path in sized if size.isdecimal()}


class Cluster(ImageVerbs):
    """A login's view of its cluster."""

    def __init__(self, login: Login, connection: Connection, settings: Settings) -> None:
        self.login = login
        self._connection = connection
        self.settings = settings
        self._sites: dict[bytes | None, Site] = {}
        self._probing = asyncio.Lock()

    def idle_s(self) -> float:
        """How long nothing was asked of it."""
        return self._connection.idle_s()

    async def site(self, programs: Collection[str] = (), prerun: bytes | None = None) -> Site:
        """What the login host has, after a prerun text; asked once for each.

        Raises FailedPrecondition if it is no place to submit jobs from.
        """
        async with self._probing:
            if (known := self._sites.get(prerun)) is not None:
                return known
            words = (*SLURM_PROGRAMS, *sorted(programs))
            found = await self._script(remote_scripts.PROBE, *words, prerun=prerun)
            site = replace(self._checked_site(found), prerun=prerun)
            if len(self._sites) >= MOST_SITES:
                self._sites.clear()
            self._sites[prerun] = site
            return site

    def check_options(self, options: Sequence[str]) -> None:
        """sbatch has words for all of them."""

    def _checked_site(self, found: Mapping[str, tuple[str, ...]]) -> Site:
        home = found.get("home", ("",))[0].rstrip("/")
        if not _HOME.fullmatch(home):
            raise FailedPrecondition(f"{self.login.account}: its home {home!r} has characters that cannot be used here")
        programs = frozenset(found.get("program", ()))
        if missing := [name for name in SLURM_PROGRAMS if name not in programs]:
            raise FailedPrecondition(f"{self.login.account}: not found in PATH there: {', '.join(missing)}")
        return Site(
            home=home,
            programs=programs,
            ch_run_options=frozenset(found.get("ch-run-option", ())),
            mpi_types=types_named(found.get("srun-mpi", ())),
            measures=gathers_usage(found.get("gather", ())),
        )

    async def make_directories(self, *paths: str) -> None:
        """Make them, with all that lead to them, for the account alone; those that are there are left as they are.

        Raises FailedPrecondition if the first, a container's, is where a submit could not be locked.
        """
        check_locking(await self._script(remote_scripts.MAKE_DIRECTORIES, *paths), paths[0], self.login)

    async def remove_directories(self, *paths: str, if_empty: Sequence[str] = ()) -> None:
        """Delete directories with all that is in them, and then others if nothing is in them."""
        found = await self._script(remote_scripts.REMOVE, str(len(paths)), *paths, *if_empty)
        if "error" in found:
            raise Unavailable(f"{self.login.account}: {paths[0]} could not be removed yet")

    @asynccontextmanager
    async def files(self) -> AsyncIterator[Files]:
        """SFTP, within a command's time limit; its own errors come as ours."""
        account = self.login.account
        async with self._connection.files() as sftp:
            try:
                yield SftpFiles(sftp)
            except asyncssh.SFTPPermissionDenied as error:
                raise FailedPrecondition(f"{account}: the cluster forbids to write there: {error.reason}") from error
            except (asyncssh.SFTPFailure, asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded) as error:
                raise ResourceExhausted(  # which is all that OpenSSH says of a full disk
                    f"{account}: files cannot be written in the cluster ({error.reason}): is a quota or a disk full?"
                ) from error
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
                raise NotFound(f"{account}: {error.reason}") from error
            except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
                raise
            except asyncssh.SFTPError as error:
                raise Unavailable(f"{account}: files cannot be written in the cluster: {error.reason}") from error

    async def write_files(self, directory: str, files: Mapping[str, tuple[bytes, int]]) -> None:
        """Write files, each with its mode, readable by nobody else at any time."""
        async with self._connection.files() as sftp:
            for name, (content, mode) in files.items():
                path = f"{directory}/{name}"
                attributes = asyncssh.SFTPAttrs(permissions=mode)
                try:
                    async with sftp.open(path, "wb", attributes) as file:
                        await file.write(content)
                except asyncssh.SFTPError as error:  # a full quota says no more than "Failure"
                    raise Unavailable(f"{self.login.account}: {path} cannot be written: {error.reason}") from error

    async def send_file(self, path: str, sent: str, offset: int, arrived: Callable[[int], None]) -> list[str]:
        """Copy a file of the node from an offset on, by another process; returns errors that it has got over."""
        return await copy_apart(self.login, self._connection.profile, path, sent, offset, arrived=arrived)

    async def read_piece(self, path: str, offset: int, size: int) -> bytes | None:
        """A piece of a file; empty at its end; None if there is no such file."""
        async with self._connection.files() as sftp:
            try:
                async with sftp.open(path, "rb") as file:
                    piece = await file.read(size, offset)
                    return piece if isinstance(piece, bytes) else piece.encode()
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
                return None
            except asyncssh.SFTPError as error:
                raise Unavailable(f"{self.login.account}: {path}: {error.reason}") from error

    async def refresh(self, directory: str) -> None:
        """Have a network file system look again for files that were not there: opening the directory does it."""
        async with self._connection.files() as sftp:
            try:
                await sftp.listdir(directory)
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
                return
            except asyncssh.SFTPError as error:
                raise Unavailable(f"{self.login.account}: {directory}: {error.reason}") from error

    async def size_of(self, path: str) -> int | None:
        """The length of a file; None if there is no such file."""
        async with self._connection.files() as sftp:
            try:
                return (await sftp.stat(path)).size
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
                return None
            except asyncssh.SFTPError as error:
                raise Unavailable(f"{self.login.account}: {path}: {error.reason}") from error

    @asynccontextmanager
    async def sizes(self) -> AsyncIterator["Sizes"]:
        """A way to look at many files, again and again, that costs one question a time."""
        script, end = remote_scripts.SIZES.encode(), f"{MARK}done=sizes\n".encode()
        async with self._connection.dialogue(script, end, self.settings.command_timeout_s) as dialogue:
            yield Sizes(dialogue)

    async def read_tail(self, path: str, size: int) -> bytes:
        """The end of a file; empty if there is no such file."""
        length = await self.size_of(path) or 0
        return await self.read_piece(path, max(0, length - size), size) or b""

    async def job_of(self, mode: Literal["submit", "find", "cancel"], directory: str, job_name: str) -> JobId | None:
        """The job of a container; None if there is none, which only ``find`` and ``cancel`` can say.

        Raises Unavailable if it cannot be known, NotFound if the directory is gone, and what sbatch's refusal means.
        """
        found = await self._script(remote_scripts.SUBMIT, mode, directory, job_name, str(LOCK_WAIT_S))
        if jobs := found.get("job"):
            if not jobs[0].isdecimal():
                raise Unavailable(f"{self.login.account}: {directory}/jobid holds no job's number")
            return JobId(int(jobs[0]))
        words = " ".join(found.get("stderr", ()))
        match found.get("error", ("",))[0]:
            case "" if "done" in found:
                return None
            case "gone":
                raise NotFound(f"{self.login.account}: {directory} is gone")
            case "cancelled":
                raise FailedPrecondition(f"{self.login.account}: {job_name} was cancelled before it was submitted")
            case "refused":
                raise refusal_of_sbatch(words)
            case "busy":
                raise Unavailable(f"{self.login.account}: a submit of {job_name} is still under way")
            case _:
                raise Unavailable(f"{self.login.account}: Slurm does not answer: {words}")

    async def queue(self) -> Mapping[JobId, JobLine]:
        """All jobs of the user that squeue lists, also those that have just ended."""
        found = await self._script(remote_scripts.QUEUE, need_done=False)
        if "done" not in found:
            raise Unavailable(f"{self.login.account}: squeue: {' '.join(found.get('stderr', ('no answer',)))}")
        lines = found.get("squeue", ())
        jobs: dict[JobId, JobLine] = {}
        for begin in range(0, len(lines), LINES_AT_A_TIME):
            jobs |= squeue_jobs(lines[begin : begin + LINES_AT_A_TIME])
            await asyncio.sleep(0)  # thousands of lines would keep others waiting for milliseconds
        return jobs

    async def history(self, job_ids: Sequence[JobId]) -> History:
        """What sacct and scontrol know of jobs that squeue does not list. A silent one says nothing.

        One sacct for many jobs. scontrol takes one job at a time: it is asked for no more than the first few that
        sacct tells no end of; what becomes of the others is not told this time.
        """
        jobs: dict[JobId, JobLine] = {}
        unknown: set[JobId] = set()
        unended: set[JobId] = set()
        may_ask = MOST_JOBS_TO_SCONTROL
        for begin in range(0, len(job_ids), MOST_JOBS_TO_SACCT):
            some = job_ids[begin : begin + MOST_JOBS_TO_SACCT]
            found = await self._script(remote_scripts.HISTORY, str(may_ask), *map(str, some))
            may_ask -= sum(name.startswith("scontrol-") for name in found)
            recorded = sacct_jobs(found.get("sacct", ()))
            sacct_spoke = "sacct-done" in found or says_no_accounting(" ".join(found.get("sacct-error", ())))
            for job_id in some:
                forgotten = says_unknown_job(" ".join(found.get(f"scontrol-error-{job_id}", ())))
                live, record = scontrol_job(" ".join(found.get(f"scontrol-{job_id}", ()))), recorded.get(job_id)
                if live is not None:
                    jobs[job_id] = live
                elif record is not None and is_over(record.state):
                    jobs[job_id] = record
                elif forgotten and record is not None:
                    unended.add(job_id)
                elif forgotten and sacct_spoke:
                    unknown.add(job_id)
        return History(jobs=jobs, unknown=frozenset(unknown), unended=frozenset(unended))

    async def usage(self, containers: Mapping[str, JobId]) -> Measured:
        """What running containers use. containers: their jobs by their directories.

        Raises Unavailable if sstat has no word for those that do not tell it themselves, with what it says instead.
        """
        steps: dict[JobId, Mapping[str, StepUsage]] = {}
        readings: dict[str, Reading] = {}
        pairs = [(str(job_id), directory) for directory, job_id in containers.items()]
        for begin in range(0, len(pairs), MOST_READINGS):
            words = [word for pair in pairs[begin : begin + MOST_READINGS] for word in pair]
            answer = await self._script(remote_scripts.USAGE, *words, need_done=False)
            for line in answer.get("reading", ()):
                directory, _, text = line.partition(" ")
                if (reading := read_usage_file(text)) is not None:
                    readings[directory] = reading
            if "done" not in answer and not readings:
                raise Unavailable(f"{self.login.account}: sstat: {' '.join(answer.get('stderr', ('no answer',)))}")
            steps |= sstat_usage(answer.get("sstat", ()))
        return Measured(steps=steps, readings=readings)

    async def signal(self, name: Signal, job_id: JobId) -> None:
        """Ask Slurm to signal a job. That Slurm has acted on it is seen by the job's state, not here.

        Raises Unavailable if Slurm is silent.
        """
        found = await self._script(remote_scripts.SIGNAL, name, str(job_id))
        if says_nothing_of_slurm(words := " ".join(found.get("scancel", ()))):
            raise Unavailable(f"{self.login.account}: Slurm does not answer: {words}")

    async def step_requested(
        self, mode: Literal["submit", "find", "cancel"], allocation_directory: str, directory: str
    ) -> bool:
        """Whether an allocation is asked for a container's step, which after ``submit`` it is.

        Raises Unavailable if that cannot be known, NotFound if the container's directory is gone,
        FailedPrecondition if the allocation begins no steps any more.
        """
        found = await self._script(remote_scripts.STEP, mode, allocation_directory, directory, str(LOCK_WAIT_S))
        check_locking(found, directory, self.login)
        match found.get("error", ("",))[0]:
            case "":
                return found["done"] == ("requested",)
            case "gone":
                raise NotFound(f"{self.login.account}: {directory} is gone")
            case "cancelled":
                raise FailedPrecondition(f"{self.login.account}: {directory} was cancelled before it was started")
            case "over":
                raise FailedPrecondition(f"{self.login.account}: the pod's allocation is over")
            case _:
                raise Unavailable(f"{self.login.account}: a start in {directory} is still under way")

    async def signal_step(self, name: Signal, job_id: JobId, allocation_directory: str, directory: str) -> None:
        """Have a container's step signalled; one that has not begun never will.

        Raises Unavailable if Slurm is silent.
        """
        found = await self._script(remote_scripts.SIGNAL_STEP, name, str(job_id), allocation_directory, directory)
        if found.get("error") == ("gone",):
            raise NotFound(f"{self.login.account}: {directory} is gone")
        if says_nothing_of_slurm(words := " ".join(found.get("scancel", ()))):
            raise Unavailable(f"{self.login.account}: Slurm does not answer: {words}")

    def process(
        self, script: str, *, terminal: bool
    ) -> AbstractAsyncContextManager["asyncssh.SSHClientProcess[bytes]"]:
        """A script for sh, for as long as it is wanted, with the caller's streams."""
        return self._connection.process(script, self.settings.command_timeout_s, terminal=terminal)

    def tcp(
        self, host: str, port: int
    ) -> AbstractAsyncContextManager[tuple["asyncssh.SSHReader[bytes]", "asyncssh.SSHWriter[bytes]"]]:
        """A connection to a port of a host, as the login host names it."""
        return self._connection.tcp(host, port, self.settings.connect_timeout_s)

    async def _script(
        self,
        script: str,
        *words: str,
        timeout_s: float | None = None,
        long: bool = False,
        need_done: bool = True,
        prerun: bytes | None = None,
    ) -> Mapping[str, tuple[str, ...]]:
        shell, text = with_prerun(script, prerun)
        result = await self._connection.run(
            (shell, "-s", "--", *words), text.encode(), timeout_s or self.settings.command_timeout_s, long=long
        )
        found = facts(result.stdout)
        words_of_shell = result.stderr.decode("utf-8", "replace").strip()[-300:]
        if "prerun" in found:
            raise FailedPrecondition(
                f"{self.login.account}: the prerun text (the setting prerun, then CLUSTER_CONFIG) "
                f"ended with {found['prerun'][0]}: {words_of_shell}"
            )
        if need_done and not found.keys() & {"done", "error", "job"}:
            raise Unavailable(
                f"{self.login.account}: a command ended with {result.exit_code} and no answer: {words_of_shell}"
            )
        return found
