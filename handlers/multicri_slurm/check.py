"""Tries profiles out, for ``multicri-proxy check``: what is found, what it means, how to mend it."""

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

from multicri_proxy.api.check import CheckRequest, Finding, Verdict
from multicri_proxy.api.errors import InvalidArgument, MulticriError
from multicri_proxy.api.image import ImageBuilder
from multicri_slurm import sshlib
from multicri_slurm.accounts import Login
from multicri_slurm.answers import facts
from multicri_slurm.check_job import findings_of_job
from multicri_slurm.check_rest import RestTrial
from multicri_slurm.keys import Keys
from multicri_slurm.plan import programs_of, wanted_builders
from multicri_slurm.prerun import prerun_of, with_prerun
from multicri_slurm.profiles import Profile, read_profiles
from multicri_slurm.ssh import Connection, Connections
from multicri_slurm.survey import SURVEY
from multicri_slurm.trial_job import TRIAL_S, trial_script
from multicri_slurm.variables import read_variables, split
from multicri_slurm.verdicts import Facts, Verdicts, code_of, line_of, lines_of

_SURVEY_S = 240.0
_SKEW_S = 5.0
_LITTLE_ROOM_KIB = 5 * 1024 * 1024
_OLDEST_SLURM = (22, 5)


async def check(request: CheckRequest) -> AsyncIterator[Finding]:
    """The plug-in: a Check."""
    profiles = read_profiles(request.settings, request.handlers)
    names = [profile.name for profile in profiles.all()]
    if request.profile is not None and request.profile not in names:
        raise InvalidArgument(f"there is no profile {request.profile!r}: there are {', '.join(names)}")
    chosen = [profile for profile in profiles.all() if request.profile in {None, profile.name}]
    await sshlib.load()
    keys = Keys()
    connections = Connections(profiles, keys)
    try:
        for profile in chosen:
            logins = await _logins(profile, request, keys, alone=len(chosen) == 1)
            if not logins and len(chosen) == 1:
                yield _nobody(profile, request.namespace)
            for login in logins:
                trial = (
                    _Trial(profile, login, connections.to(login), request)
                    if profile.settings.rest_url is None
                    else RestTrial(profile, login)
                )
                async for finding in trial.run():
                    yield finding
                if request.run_job and profile.settings.rest_url is not None:
                    say = Verdicts(f"{profile.name}: {login.account}")
                    yield say.doubtful("job", "none was tried: --run-job wants a cluster that is reached by SSH")
    finally:
        await connections.close()


async def _logins(profile: Profile, request: CheckRequest, keys: Keys, *, alone: bool) -> list[Login]:
    """Who pods are by this profile: as the environment says, else as the settings do.

    alone: no other profile is tried, to which the environment's credentials do not belong.
    """
    given, _ = split((name, value.encode()) for name, value in request.environment.items())
    variables = read_variables({name: value for name, value in given.items() if name.startswith("CLUSTER_")})
    if variables.CLUSTER_USERNAME is not None and alone:
        login = profile.login_for(variables, request.namespace or "default")
        if login.private_key is not None:
            await keys.check(login.private_key)
        return [login]
    namespaces = [request.namespace] if request.namespace is not None else ["", *profile.settings.users]
    found = [profile.login_of(name) for name in namespaces]
    return list({login.account: login for login in found if login is not None}.values())


def _nobody(profile: Profile, namespace: str | None) -> Finding:
    if namespace is not None and profile.settings.users:
        meaning, mend = f"nobody is set for the namespace {namespace}", f"add it to {profile.section}.users"
    else:
        meaning = "nobody to log in as: each pod says who it is"
        mend = "give CLUSTER_HOST, CLUSTER_USERNAME and CLUSTER_PASSWORD or CLUSTER_KEYVALUE in the environment"
    return Finding(of=profile.name, what="account", verdict=Verdict.BAD, meaning=meaning, mend=mend)


@dataclass(frozen=True, slots=True)
class _Trial:
    """One account of one profile."""

    profile: Profile
    login: Login
    connection: Connection
    request: CheckRequest

    @property
    def say(self) -> Verdicts:
        return Verdicts(f"{self.profile.name}: {self.login.account}")

    async def run(self) -> AsyncIterator[Finding]:
        begun = time.monotonic()
        try:
            await self.connection.run(("true",), b"", self.profile.settings.command_timeout_s)
        except MulticriError as error:
            refused = isinstance(error.__cause__, sshlib.asyncssh.HostKeyNotVerifiable) or "host key" in str(error)
            yield self.say.bad("host key" if refused else "SSH", str(error))
            return
        way = "".join(f"{jump.host}, then " for jump in self.profile.settings.proxy_jump)
        yield self.say.good("host key", "known" if not way else "known, also on the way")
        yield self.say.good("SSH", f"{way}{self.login.account}, in {time.monotonic() - begun:.1f} s")
        try:
            unmounted = await self._unmounted()
        except (MulticriError, sshlib.asyncssh.SFTPError) as error:
            yield self.say.bad("SFTP", str(error), "have sshd serve its subsystem sftp")
            return
        yield self.say.good("SFTP", "served")
        for place in unmounted:
            mend = f"mount there what the volume holds, or change {self.profile.section}.volume_names"
            yield self.say.bad("volumes", f"there is no directory {place} in the account's home", mend)
        settings = self.profile.settings
        images = settings.image_remote_mount or f"{settings.mount_path}/images"
        programs = sorted(programs_of(wanted_builders(self.request.image_builders, settings)))
        words = (settings.mount_path, images, " ".join(settings.default_options()), *programs)
        shell, text = with_prerun(SURVEY, prerun_of(settings.prerun, ""))
        try:
            asked_at = time.time()
            result = await self.connection.run((shell, "-s", "--", *words), text.encode(), _SURVEY_S, long=True)
            answered_at = time.time()
        except MulticriError as error:
            yield self.say.bad("commands", str(error))
            return
        found = facts(result.stdout)
        said = " / ".join(result.stderr.decode("utf-8", "replace").strip().splitlines()[-5:])
        if "prerun" in found:
            meaning = f"ended with {found['prerun'][0]}: {said}"
            yield self.say.bad("prerun", meaning, f"try {self.profile.section}.prerun in bash there")
            return
        if "done" not in found:
            yield self.say.bad("commands", f"no answer: {said}", "look at what the account's shell does at its start")
            return
        for finding in (
            *self._slurm(found),
            *self._runtime(found),
            *self._places(found),
            *self._clock(found, asked_at, answered_at),
            *self._extras(found),
        ):
            yield finding
        if self.request.run_job and (builder := self._builder(found)) is not None:
            async for finding in self._job(builder):
                yield finding

    async def _job(self, builder: ImageBuilder) -> AsyncIterator[Finding]:
        """Of a compute node, as a job there finds it."""
        settings = self.profile.settings
        images = settings.image_remote_mount or f"{settings.mount_path}/images"
        words = (settings.mount_path, images, builder.programs[0], settings.build_in)
        prerun = prerun_of(settings.prerun, "")
        shell, text = with_prerun(trial_script(prerun), prerun)
        argv = (shell, "-s", "--", *words, " ".join(settings.default_options()))
        try:
            result = await self.connection.run(argv, text.encode(), TRIAL_S + _SURVEY_S, long=True)
        except MulticriError as error:
            yield self.say.bad("job", str(error))
            return
        for finding in findings_of_job(facts(result.stdout), self.say, self.profile.section):
            yield finding

    def _builder(self, found: Facts) -> ImageBuilder | None:
        """The first one whose programs are all there and run."""
        builders = wanted_builders(self.request.image_builders, self.profile.settings)
        return next((b for b in builders if all(code_of(found, f"runtime-{p}") == 0 for p in b.programs)), None)

    async def _unmounted(self) -> list[str]:
        """Directories that volumes are named for, and that are not there."""
        settings = self.profile.settings
        async with self.connection.files() as sftp:
            places = [f"{settings.mount_path}/{name}" for name in settings.volume_names.values()]
            return [place for place in places if not await sftp.isdir(place)]

    # -- what the survey says ------------------------------------------------------------------------------------

    def _slurm(self, found: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
        version = line_of(found, "version")
        if code_of(found, "version") != 0:
            yield self.say.bad("Slurm", f"sbatch does not run: {version}", self._in_path("Slurm's commands"))
            return
        if missing := found.get("missing"):
            yield self.say.bad("Slurm", f"{version}, without {', '.join(missing)}", self._in_path(", ".join(missing)))
        elif _number(version) < _OLDEST_SLURM:
            yield self.say.doubtful("Slurm", f"{version}: older than 22.05, which is the oldest that was tried")
        else:
            yield self.say.good("Slurm", version)
        ping = lines_of(found, "ping")
        if "UP" not in ping:
            yield self.say.bad("slurmctld", ping, "have the cluster's admin look at slurmctld; jobs that run go on")
        else:
            yield self.say.good("slurmctld", "up")
        if code_of(found, "test") != 0:
            mend = f"set what it wants (partition, account, time) in {self.profile.section}.job_options_default"
            yield self.say.bad("sbatch --test-only", lines_of(found, "test"), mend)
        else:
            yield self.say.good("sbatch --test-only", line_of(found, "test").removeprefix("sbatch: "))

    def _runtime(self, found: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
        builders = wanted_builders(self.request.image_builders, self.profile.settings)
        for builder in builders:
            told = [(program, code_of(found, f"runtime-{program}")) for program in builder.programs]
            if any(code is None for _, code in told):
                continue
            broken = [program for program, code in told if code != 0]
            if broken:
                said = lines_of(found, f"runtime-{broken[0]}")
                yield self.say.bad("container runtime", f"{broken[0]} does not run: {said}", self._in_path(broken[0]))
            else:
                program = builder.programs[0]
                yield self.say.good("container runtime", f"{program}: {line_of(found, f'runtime-{program}')}")
            return
        looked_for = " or ".join("+".join(builder.programs) for builder in builders)
        yield self.say.bad("container runtime", f"none in PATH: looked for {looked_for}", self._in_path("one of them"))

    def _places(self, found: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
        for why in found.get("unwritable", ()):
            yield self.say.bad("directories", why, f"look at the quota, or change {self.profile.section}.mount_path")
        rooms = [int(room) for room in found.get("room", ()) if room.isdecimal()]
        if rooms and not found.get("unwritable"):
            meaning = f"can be written to, {min(rooms) / 1024**2:.1f} GiB are free"
            if min(rooms) < _LITTLE_ROOM_KIB:
                yield self.say.doubtful("directories", meaning, "images take hundreds of MiB each: make room")
            else:
                yield self.say.good("directories", meaning)
        if locks := found.get("flock"):
            if "1" in locks:
                yield self.say.bad(
                    "flock", "two holders at once: a job could be submitted twice", "mount the home with locks"
                )
            else:
                yield self.say.good("flock", "keeps a second one out")

    def _clock(self, found: Mapping[str, tuple[str, ...]], asked_at: float, answered_at: float) -> Iterator[Finding]:
        told = found.get("now_ns", ("",))[0]
        if not told.isdecimal():
            yield self.say.doubtful("clock", "date tells no nanoseconds: times of containers will be the node's")
            return
        there = int(told) / 1e9
        skew_s = there - min(max(there, asked_at), answered_at)
        if abs(skew_s) > _SKEW_S:
            meaning = f"{skew_s:+.0f} s: the times of containers are off"
            yield self.say.doubtful("clock", meaning, "synchronise the clocks of both with NTP")
        else:
            yield self.say.good("clock", "agrees with the node's")

    def _extras(self, found: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
        if code_of(found, "accounting") == 0:
            yield self.say.good("accounting", "sacct answers")
        else:
            meaning = f"{lines_of(found, 'accounting')}: how a job ended is known for MinJobAge only"
            yield self.say.doubtful("accounting", meaning, "have the cluster's admin run slurmdbd")
        kinds = [line.strip() for line in found.get("mpi-line", ()) if line.strip() and "plugin" not in line.lower()]
        if code_of(found, "mpi") == 0 and kinds:
            yield self.say.good("srun --mpi", ", ".join(kinds))
        else:
            yield self.say.doubtful("srun --mpi", lines_of(found, "mpi"), "MPI jobs will need an mpirun")

    # -- verdicts ------------------------------------------------------------------------------------------------

    def _in_path(self, what: str) -> str:
        return f"put {what} into PATH of a shell that is not a login shell, or load it in {self.profile.section}.prerun"


def _number(version: str) -> tuple[int, ...]:
    """``slurm 24.11.5`` as (24, 11)."""
    words = version.split()
    return tuple(int(part) for part in (words[-1].split(".") if words else ())[:2] if part.isdecimal())
