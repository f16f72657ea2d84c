"""Tries this node out, for ``multicri-proxy check``: what is found, what it means, how to mend it."""

import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from multicri_charliecloud.cgroups import Cgroups
from multicri_charliecloud.job import NEWLINES_SINCE
from multicri_charliecloud.programs import as_identity, environment, run
from multicri_charliecloud.settings import Identity, Settings, identity_of, read_settings
from multicri_proxy.api.check import CheckRequest, Finding, Verdict
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, Unavailable

TIMEOUT_S = 20.0
LITTLE_ROOM_BYTES = 5 * 1024**3
PROGRAMS = {
    "ch-run": "charliecloud",
    "ch-image": "charliecloud",
    "ch-convert": "charliecloud",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
"""What is run, and Debian's packages of it."""

SQUASHFS_PROGRAMS = ("mksquashfs", "unsquashfs")
OLDEST = (0, 31)
SWITCHES = {
    "kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
    "user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
}
"""Below /proc/sys: with which value a kernel allows no user namespaces, and what allows them again."""


async def check(request: CheckRequest) -> AsyncIterator[Finding]:
    """The plug-in: a Check."""
    if request.profile is not None:
        raise InvalidArgument(f"there is no profile {request.profile!r}: charliecloud has none")
    settings = read_settings(request.settings)
    trial = _Trial(settings, identity_of(settings))
    for finding in trial.programs():
        yield finding
    if shutil.which("ch-run"):
        yield await trial.version()
    for finding in (trial.account(), await trial.user_namespaces(), *await trial.storage(), trial.control_groups()):
        yield finding


@dataclass(frozen=True, slots=True)
class _Trial:
    settings: Settings
    identity: Identity | None

    def programs(self) -> Iterator[Finding]:
        wanted = dict(PROGRAMS)
        if self.settings.image_format == "squashfs":
            wanted |= dict.fromkeys(SQUASHFS_PROGRAMS, "squashfs-tools")
        missing = [program for program in wanted if shutil.which(program) is None]
        for package in dict.fromkeys(wanted[program] for program in missing):
            lacking = ", ".join(program for program in missing if wanted[program] == package)
            yield self._bad("programs", f"not in PATH: {lacking}", f"apt-get install {package}")
        if not missing:
            yield self._good("programs", ", ".join(wanted))

    async def version(self) -> Finding:
        try:
            said = (await self._run("ch-run", "--version")).decode(errors="replace").strip()
            options = (await self._run("ch-run", "--help")).decode(errors="replace")
        except (FailedPrecondition, Unavailable) as error:
            return self._bad("charliecloud", str(error), "try ch-run --version as that account")
        number = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
        if number < OLDEST:
            return self._doubtful("charliecloud", f"{said}: nobody has tried one before 0.31", "install a newer one")
        if NEWLINES_SINCE not in options:
            return self._good("charliecloud", f"{said}; variables with a newline are refused before 0.34")
        return self._good("charliecloud", said)

    def account(self) -> Finding:
        if self.identity is None:
            return self._good("account", f"containers are the user {os.geteuid()}, as the daemon is")
        if self.identity.name == "nobody":
            mend = "useradd --system multicri, and charliecloud.user: multicri"
            return self._doubtful("account", "containers are nobody, as other services may be", mend)
        return self._good("account", f"containers are {self.identity.name}")

    async def user_namespaces(self) -> Finding:
        try:
            await self._run("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "true")
        except (FailedPrecondition, Unavailable) as error:
            mends = [mend for name, (value, mend) in SWITCHES.items() if _kernel_says(name) == value]
            mend = "; ".join(mends) or "look at the limits of the daemon's unit, and at the kernel's log"
            return self._bad("user namespaces", str(error), mend)
        return self._good("user namespaces", "can be made")

    async def storage(self) -> list[Finding]:
        """Nothing is made: a directory that is not there yet is looked at as the one above it."""
        place = _lowest(self.settings.directory)
        try:
            await self._run("test", "-x", str(place))
        except (FailedPrecondition, Unavailable):
            name = self.identity.name if self.identity else "the daemon's user"
            return [self._bad("directory", f"{place} cannot be entered by {name}", "chmod o+x it and all above it")]
        if not os.access(place, os.W_OK):
            mend = "make it the daemon's, or set charliecloud.directory"
            return [self._bad("directory", f"{place} cannot be written to by the daemon", mend)]
        found = os.statvfs(place)
        if found.f_flag & os.ST_NOEXEC:
            mend = "mount it without noexec, or set charliecloud.directory"
            return [self._bad("directory", f"{place} is mounted noexec: no program of an image runs", mend)]
        room_bytes = found.f_bavail * found.f_frsize
        meaning = f"{self.settings.directory}: {room_bytes / 1024**3:.1f} GiB are free"
        if room_bytes < LITTLE_ROOM_BYTES:
            mend = "each container has a copy of its image: make room"
            return [self._doubtful("directory", meaning, mend)]
        return [self._good("directory", meaning)]

    def control_groups(self) -> Finding:
        groups = Cgroups.found()
        if groups is None:
            mend = "set Delegate=yes in the daemon's unit, user or system"
            return self._doubtful("control groups", "none is ours: limits of containers are not enforced", mend)
        names = sorted(name or "version 2" for name in groups.tops)
        return self._good("control groups", f"delegated: {', '.join(names)}")

    async def _run(self, *words: str) -> bytes:
        return await run(as_identity(words, self.identity), environment(self.identity), TIMEOUT_S)

    def _good(self, what: str, meaning: str) -> Finding:
        return self._finding(Verdict.GOOD, what, meaning)

    def _doubtful(self, what: str, meaning: str, mend: str) -> Finding:
        return self._finding(Verdict.DOUBTFUL, what, meaning, mend)

    def _bad(self, what: str, meaning: str, mend: str) -> Finding:
        return self._finding(Verdict.BAD, what, meaning, mend)

    def _finding(self, verdict: Verdict, what: str, meaning: str, mend: str = "") -> Finding:
        of = f"this node, by {'root' if self.identity else 'an ordinary user'}'s daemon"
        return Finding(of=of, what=what, verdict=verdict, meaning=meaning, mend=mend)


def _lowest(path: Path) -> Path:
    """What of a path is there, as far as that can be seen."""
    return next(one for one in (path, *path.parents) if os.path.exists(one))  # noqa: PTH110  (Path's raises)


def _kernel_says(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""
