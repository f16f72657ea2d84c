"""What can be asked of a cluster over Slurm's REST interface and a directory that the node shares with it.

There is no login host: what has to be run in the cluster (looking for programs, building images) is a batch job, which
writes its answer into the shared directory. One of the same script, words and prerun text that this node has asked is
joined, not repeated.

A job is submitted once. That a POST may have been sent is written down before; from then on the job is looked for by
its name before another one is sent, and none is sent as long as a question that nobody waits for any more may still be
on its way through slurmrestd. Should it be there all the same, ``--dependency=singleton`` and the claim in the job's
directory let only one of two jobs run the container.
"""

import asyncio
import hashlib
import platform
import shlex
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from secrets import token_hex
from typing import Literal
from weakref import WeakValueDictionary

from multicri_proxy.api.adapter import Phase
from multicri_proxy.api.errors import FailedPrecondition, NotFound, PermissionDenied, Unavailable, Unimplemented
from multicri_proxy.api.ids import JobId
from multicri_proxy.api.log import Log
from multicri_slurm import remote_scripts
from multicri_slurm.accounts import Login
from multicri_slurm.answers import JobLine, facts, read_usage_file, refusal_of_sbatch
from multicri_slurm.image_sending import copy
from multicri_slurm.image_verbs import LOCK_WAIT_S, ImageVerbs
from multicri_slurm.mpi import types_named
from multicri_slurm.prerun import with_prerun
from multicri_slurm.rest_answers import fields_of, jobs_of, recorded_jobs, says_no_such_job, words_of
from multicri_slurm.rest_api import Answer, NotSent, RestApi
from multicri_slurm.rest_options import environment_of_script, fields_of_options, fields_of_script
from multicri_slurm.settings import Settings
from multicri_slurm.shared_files import SharedFiles
from multicri_slurm.shared_images import use_image
from multicri_slurm.shared_steps import SharedSteps
from multicri_slurm.sites import History, Measured, Signal, Site
from multicri_slurm.sshlib import asyncssh
from multicri_slurm.states import is_over, state_named

SETTLING_S = 20.0  # slurmctld's MessageTimeout is 10 s: after twice that a question is answered or lost
MOST_JOBS_TO_ASK = 50
SHORT_MINUTES = 10
TIMES_TO_ASK = 3
LOOK_S, LOOK_SLOWLY_S, SLOWER = 0.5, 5.0, 1.2
LONGEST_READING_BYTES = 200
LONGEST_ANSWER_BYTES = 256 * 1024
LONGEST_SCRIPT_BYTES = 4 * 1024 * 1024
PATH = "/usr/local/bin:/usr/bin:/bin"
NO_LOGIN = "exec, attach and port-forward lead over SSH, and this cluster is reached by REST"

_NEEDED = ("flock",)
_SHELL = """#!/bin/bash
shopt -q login_shell || { export HOME; HOME=$(getent passwd "$(id -u)" | cut -d : -f 6); exec /bin/bash -l "$0"; }
"""  # which a user's own profile makes use of
_ASKED = "asked.sh"  # for a build it may hold a registry's password, and Slurm keeps and shows what it is given
_log = Log("slurm.rest")


class SharedLengths:
    """How long files of the shared directory are."""

    def __init__(self, files: SharedFiles) -> None:
        self._files = files

    async def of(self, paths: tuple[str, ...]) -> Mapping[str, int]:
        return await self._files.sizes(paths)


class RestCluster(ImageVerbs):
    """A login's view of its cluster: a `ClusterVerbs`."""

    def __init__(self, login: Login, settings: Settings) -> None:
        self.login = login
        self.settings = settings
        self._api = RestApi(login, settings)
        self._shared = shared_files(login, settings)
        self._steps = SharedSteps(self._shared)
        self._home = home_of(login, settings)
        self._sites: dict[bytes | None, Site] = {}
        self._probing = asyncio.Lock()
        self._submitting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def idle_s(self) -> float:
        return self._api.idle_s()

    async def site(self, programs: Collection[str] = (), prerun: bytes | None = None) -> Site:
        async with self._probing:
            if (known := self._sites.get(prerun)) is not None:
                return known
            words = (*_NEEDED, *sorted(programs))
            found = await self._script(remote_scripts.PROBE, *words, prerun=prerun)
            there = frozenset(found.get("program", ()))
            if missing := [name for name in _NEEDED if name not in there]:
                raise FailedPrecondition(f"{self.login.account}: not found in PATH of a job: {', '.join(missing)}")
            site = Site(
                home=self._home,
                programs=there,
                ch_run_options=frozenset(found.get("ch-run-option", ())),
                prerun=prerun,
                mpi_types=types_named(found.get("srun-mpi", ())),
            )
            self._sites[prerun] = site
            return site

    def check_options(self, options: Sequence[str]) -> None:
        fields_of_options(options, 0)

    async def use_image(self, directory: str, file_name: str, holder: str) -> int | None:
        if self.settings.image_checksum:  # to be reckoned where the file is near
            return await super().use_image(directory, file_name, holder)
        return await use_image(self._shared, directory, file_name, holder, LOCK_WAIT_S)

    # -- files ---------------------------------------------------------------------------------------------------

    async def make_directories(self, *paths: str) -> None:
        await self._shared.make_all(*paths)

    async def remove_directories(self, *paths: str, if_empty: Sequence[str] = ()) -> None:
        await self._shared.remove_all(*paths, if_empty=if_empty)

    @asynccontextmanager
    async def files(self) -> AsyncIterator[SharedFiles]:
        yield self._shared

    async def write_files(self, directory: str, files: Mapping[str, tuple[bytes, int]]) -> None:
        await self._shared.write_all(directory, files)

    async def send_file(self, path: str, sent: str, offset: int, arrived: Callable[[int], None]) -> list[str]:
        return await copy(self, path, sent, offset, arrived)

    async def read_piece(self, path: str, offset: int, size: int) -> bytes | None:
        return await self._shared.read(path, offset, size)

    async def read_tail(self, path: str, size: int) -> bytes:
        length = await self.size_of(path) or 0
        return await self.read_piece(path, max(0, length - size), size) or b""

    async def size_of(self, path: str) -> int | None:
        return (await self._shared.sizes([path])).get(path)

    @asynccontextmanager
    async def sizes(self) -> AsyncIterator[SharedLengths]:
        yield SharedLengths(self._shared)

    async def refresh(self, directory: str) -> None:
        if await self._shared.is_directory(directory):
            await self._shared.entries(directory.encode())

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def job_of(self, mode: Literal["submit", "find", "cancel"], directory: str, job_name: str) -> JobId | None:
        async with self._submitting.setdefault(directory, asyncio.Lock()):
            if not await self._shared.is_directory(directory):
                raise NotFound(f"{self.login.account}: {directory} is gone")
            if mode == "cancel":
                await self._shared.replace(f"{directory}/cancelled", b"")
            for name in ("jobid", "claim/job"):
                if (told := (await self._text(f"{directory}/{name}")).strip()).isdecimal():
                    return JobId(int(told))
            attempted_at = await self._text(f"{directory}/attempt")
            if attempted_at and (job_id := await self._named(job_name)) is not None:
                return await self._note(directory, job_id)
            if mode != "submit":
                return None
            if await self.size_of(f"{directory}/cancelled") is not None:
                raise FailedPrecondition(f"{self.login.account}: {job_name} was cancelled before it was submitted")
            if attempted_at and abs(time.time() - float(attempted_at)) < SETTLING_S:
                raise Unavailable(f"{self.login.account}: a submit of {job_name} may still be under way")
            script = await self.read_piece(f"{directory}/job.sh", 0, LONGEST_SCRIPT_BYTES)
            if script is None:
                raise NotFound(f"{self.login.account}: {directory}/job.sh is gone")
            text = script.decode("utf-8", "surrogateescape")
            fields = fields_of_script(text, time.time())
            await self._shared.replace(f"{directory}/attempt", f"{time.time():.3f}".encode())
            try:
                answer = await self._post(text, fields)
            except (NotSent, PermissionDenied):
                await self._shared.remove_file(f"{directory}/attempt".encode())
                raise
            if answer.status != 200:
                refusal = refusal_of_sbatch(words_of(answer.body))
                if not isinstance(refusal, Unavailable):  # positively: there is no job to look for
                    await self._shared.remove_file(f"{directory}/attempt".encode())
                raise refusal
            return await self._note(directory, self._submitted(answer))

    async def queue(self) -> Mapping[JobId, JobLine]:
        answer = await self._api.slurm("GET", "jobs/")
        if answer.status != 200:
            raise Unavailable(f"{self.login.account}: Slurm does not answer: {words_of(answer.body)}")
        lines = await asyncio.to_thread(jobs_of, answer.body, self.login.account.username)
        return {line.job_id: line for line in lines}

    async def history(self, job_ids: Sequence[JobId]) -> History:
        jobs: dict[JobId, JobLine] = {}
        unknown, unended = set[JobId](), set[JobId]()
        for job_id in job_ids[:MOST_JOBS_TO_ASK]:
            answer = await self._api.slurm("GET", f"job/{job_id}")
            if answer.status == 200:
                lines = await asyncio.to_thread(jobs_of, answer.body, self.login.account.username)
                jobs |= {line.job_id: line for line in lines}
                continue
            if not says_no_such_job(answer.body):
                raise Unavailable(f"{self.login.account}: Slurm does not answer: {words_of(answer.body)}")
            told = await self._api.accounting(f"job/{job_id}")
            records = {line.job_id: line for line in recorded_jobs(told.body)} if told.status == 200 else {}
            record = records.get(job_id)
            if record is not None and is_over(record.state):
                jobs[job_id] = record
            elif record is not None:
                unended.add(job_id)
            elif told.status in {200, 404}:
                unknown.add(job_id)
        return History(jobs=jobs, unknown=frozenset(unknown), unended=frozenset(unended))

    async def usage(self, containers: Mapping[str, JobId]) -> Measured:
        """slurmrestd has no sstat: the containers' own scripts tell."""
        readings = {}
        for directory in containers:
            text = await self.read_piece(f"{directory}/usage", 0, LONGEST_READING_BYTES) or b""
            if (reading := read_usage_file(text.decode("ascii", "replace"))) is not None:
                readings[directory] = reading
        return Measured(steps={}, readings=readings)

    async def signal(self, name: Signal, job_id: JobId) -> None:
        query = None
        if name != "CANCEL":
            answer = await self._api.slurm("GET", f"job/{job_id}")
            lines = jobs_of(answer.body, self.login.account.username) if answer.status == 200 else []
            if not any(line.state == "PENDING" for line in lines):  # one that waits has no script to be told
                query = {"signal": name, "flags": "BATCH_JOB"}
        answer = await self._api.slurm("DELETE", f"job/{job_id}", query)
        if answer.status != 200 and not says_no_such_job(answer.body):
            raise Unavailable(f"{self.login.account}: job {job_id} cannot be signalled: {words_of(answer.body)}")

    async def step_requested(
        self, mode: Literal["submit", "find", "cancel"], allocation_directory: str, directory: str
    ) -> bool:
        async with self._submitting.setdefault(directory, asyncio.Lock()):
            return await self._steps.requested(mode, allocation_directory, directory)

    async def signal_step(self, name: Signal, job_id: JobId, allocation_directory: str, directory: str) -> None:
        await self._steps.signal(name, job_id, allocation_directory, directory)

    def process(
        self, script: str, *, terminal: bool
    ) -> AbstractAsyncContextManager["asyncssh.SSHClientProcess[bytes]"]:
        raise Unimplemented(NO_LOGIN)

    def tcp(
        self, host: str, port: int
    ) -> AbstractAsyncContextManager[tuple["asyncssh.SSHReader[bytes]", "asyncssh.SSHWriter[bytes]"]]:
        raise Unimplemented(NO_LOGIN)

    async def _named(self, job_name: str) -> JobId | None:
        """The oldest job of a name; None if there is positively none."""
        jobs = [line for line in (await self.queue()).values() if line.name == job_name]
        if not jobs:
            query = {"job_name": job_name, "users": self.login.account.username, "start_time": str(_a_month_ago())}
            told = await self._api.accounting("jobs/", query)
            if told.status == 200:
                jobs = [line for line in recorded_jobs(told.body) if line.name == job_name]
            elif told.status != 404:
                raise Unavailable(f"{self.login.account}: slurmdbd does not answer: {words_of(told.body)}")
        return min((line.job_id for line in jobs), default=None)

    async def _post(self, script: str, fields: Mapping[str, object]) -> Answer:
        """A job has nothing of what a login sets but what is said here."""
        user = self.login.account.username
        environment = [f"PATH={PATH}", f"USER={user}", f"LOGNAME={user}", "SHELL=/bin/bash"]
        environment += environment_of_script(script)
        job = {"environment": environment, **fields}
        text = f"{_SHELL}{script.removeprefix('#!/bin/bash')}"
        return await self._api.slurm("POST", "job/submit", body={"script": text, "job": job})

    def _submitted(self, answer: Answer) -> JobId:
        job_id = fields_of(answer.body).get("job_id")
        if not isinstance(job_id, int) or job_id < 1:
            raise Unavailable(f"{self.login.account}: slurmrestd tells no number of the job: {words_of(answer.body)}")
        return JobId(job_id)

    async def _note(self, directory: str, job_id: JobId) -> JobId:
        await self._shared.replace(f"{directory}/jobid", f"{job_id}\n".encode())
        return job_id

    async def _text(self, path: str) -> str:
        return (await self.read_piece(path, 0, 64) or b"").decode("ascii", "replace")

    # -- what runs in the cluster --------------------------------------------------------------------------------

    async def _script(
        self,
        script: str,
        *words: str,
        timeout_s: float | None = None,
        long: bool = False,
        need_done: bool = True,
        prerun: bytes | None = None,
    ) -> Mapping[str, tuple[str, ...]]:
        """Have a script run as a job, and return what it said. However often this is cancelled, it is one job."""
        minutes = max(1, int((timeout_s or 0) // 60)) if long else SHORT_MINUTES
        _, source = with_prerun(script, prerun)
        said = await self._said(f"set -- {shlex.join(words)}\n{source}", minutes)
        found = facts(said)
        last_words = said.decode("utf-8", "replace").strip()[-300:]
        if "prerun" in found:
            raise FailedPrecondition(
                f"{self.login.account}: the prerun text (the setting prerun, then CLUSTER_CONFIG) "
                f"ended with {found['prerun'][0]}: {last_words}"
            )
        if need_done and not found.keys() & {"done", "error"}:
            raise Unavailable(f"{self.login.account}: a job to look around or to build said no answer: {last_words}")
        return found

    async def _said(self, text: str, minutes: int) -> bytes:
        """What a job of this text says. Who asks the same on this node, after a restart too, waits for the same job.

        Whoever has read the answer removes it: another one asks anew.
        """
        digest = hashlib.sha256(f"{platform.node()}\n{text}".encode()).hexdigest()[:24]
        asked = f"{self._home}/{self.settings.mount_path}/.asked"
        for _ in range(TIMES_TO_ASK):
            with suppress(NotFound):
                said = await self._asked(text, minutes, f"{asked}/{digest}")
                await self._shared.remove_all(f"{asked}/{digest}", if_empty=[asked])
                return said
        raise Unavailable(f"{self.login.account}: what a job said in {asked}/{digest} is removed again and again")

    async def _asked(self, text: str, minutes: int, directory: str) -> bytes:
        """Raises NotFound if the directory is removed meanwhile."""
        await self._shared.make_all(directory)
        if not (nonce := await self._text(f"{directory}/nonce")):  # Slurm still knows jobs that asked the same before
            nonce = token_hex(8)
            await self._shared.replace(f"{directory}/nonce", nonce.encode())
        name = f"multicri-ask-{nonce}"
        header = {
            "job-name": name,
            "chdir": directory,
            "output": f"{directory}/said",
            "time": str(minutes),
        }
        options = [
            *self.settings.default_options(),
            "--no-requeue",
            *(f"--{key}={value}" for key, value in header.items()),
        ]
        lines = "".join(f"#SBATCH {option}\n" for option in _last_of_each(options))
        await self._shared.replace(f"{directory}/{_ASKED}", text.encode())  # which a job may just be reading
        await self._shared.replace(f"{directory}/job.sh", f"#!/bin/bash\n{lines}. ./{_ASKED}\n".encode())
        return await self._answer(await self._submit_until_known(directory, name), directory)

    async def _submit_until_known(self, directory: str, name: str) -> JobId:
        job_id = await self.job_of("submit", directory, name)
        if job_id is None:
            raise Unavailable(f"{self.login.account}: no answer to the submit of {name}")
        _log.info("job submitted to look around or build", account=self.login.account, job_id=job_id, job_name=name)
        return job_id

    async def _answer(self, job_id: JobId, directory: str) -> bytes:
        """What the job has written when it is over. One that waits for long goes on waiting, and is joined again."""
        begun, pause_s = time.monotonic(), LOOK_S
        while (took_s := time.monotonic() - begun) < self.settings.build_timeout_s:
            found = await self.history([job_id])
            line = found.jobs.get(job_id)
            state = state_named(line.state) if line is not None else None
            if job_id in found.unknown or (state is not None and state.phase is Phase.EXITED):
                said = await self.read_piece(f"{directory}/said", 0, LONGEST_ANSWER_BYTES)
                if said is None and not await self._shared.is_directory(directory):
                    raise NotFound(f"{self.login.account}: {directory} is gone")
                return said or b""
            if line is not None and line.state == "PENDING" and took_s > self.settings.command_timeout_s:
                raise Unavailable(
                    f"{self.login.account}: job {job_id}, which is to look around or to build, waits in the queue: "
                    f"{line.reason}"
                )
            await asyncio.sleep(pause_s)
            pause_s = min(LOOK_SLOWLY_S, pause_s * SLOWER)
        raise Unavailable(f"{self.login.account}: job {job_id} takes longer than build_timeout_s")


def home_of(login: Login, settings: Settings) -> str:
    """The shared directory, as the cluster knows it."""
    path = settings.shared_directory_in_cluster or settings.shared_directory
    return path.replace("{user}", login.account.username)


def shared_files(login: Login, settings: Settings) -> SharedFiles:
    proof = login.proof
    if proof is None or proof.uid is None or proof.gid is None:
        raise AssertionError("settings that were not checked")
    return SharedFiles(
        here=settings.shared_directory.replace("{user}", login.account.username),
        there=home_of(login, settings),
        uid=proof.uid,
        gid=proof.gid,
        name=str(login.account),
        wait_s=settings.command_timeout_s,
    )


def _a_month_ago() -> int:
    return int(time.time()) - 30 * 86_400


def _last_of_each(options: Sequence[str]) -> list[str]:
    return list({option.partition("=")[0]: option for option in options}.values())
