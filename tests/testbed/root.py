"""The cluster's root file system: Debian with Slurm, sshd, Apptainer, Charliecloud and OpenMPI. Built only once."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed.authority import Authority
from testbed.packages import NO_DAEMONS, Mirror, mirror
from testbed.programs import CLEAN_ENV, run
from testbed.settings import ReleaseName

PACKAGES = (
    "catatonit",  # PID 1 of each host: reaps
    "charliecloud",
    "fuse-overlayfs",
    "fuse2fs",
    "fuse3",
    "iproute2",
    "jq",
    "munge",
    "openssh-server",
    "procps",
    "slurm-client",
    "slurmctld",
    "slurmd",
    "squashfuse",
    "uidmap",
)
# needed to compile the MPI program, and gone afterwards
COMPILER_PACKAGES = ("gcc", "libc6-dev", "libopenmpi-dev")
MPI_SOURCE = Path(__file__).with_name("mpi-ranks.c")
MPI_PROGRAM = Path("usr/local/bin/mpi-ranks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a Debian release has beyond `PACKAGES`. sid_packages: come from sid, as nothing else may."""

    packages: tuple[str, ...] = ()
    sid_packages: tuple[str, ...] = ()

    @property
    def mpi(self) -> bool:
        return "openmpi-bin" in self.packages


REST_PACKAGES = ("slurm-wlm-jwt-plugin", "slurmrestd")
# bookworm has no Apptainer, and sid's wants a newer libc: there, Charliecloud is all there is.
RELEASES: dict[ReleaseName, Release] = {
    "bookworm": Release(),
    "trixie": Release(
        packages=(*REST_PACKAGES, "libpmix2t64", "openmpi-bin"),  # libpmix2t64 is what slurmd's mpi/pmix opens
        sid_packages=("apptainer",),
    ),
    "sid": Release(packages=(*REST_PACKAGES, "apptainer")),
}
ACCOUNTING_PACKAGES = ("mariadb-server", "slurm-wlm-mysql-plugin", "slurmdbd")
APPTAINER_GROUP = "apptainer"
BUILD_TIMEOUT_S = 1200

FILES = {
    # sid's Release file may be past its date
    "etc/apt/apt.conf.d/99testbed": """\
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
DPkg::Use-Pty "0";
""",
    # the libraries are for AMD's GPUs, of 240 MB, and OpenMPI does without them
    "etc/dpkg/dpkg.cfg.d/testbed": """\
path-exclude=/usr/lib/*/libLLVM*
path-exclude=/usr/lib/*/libamd_comgr*
path-exclude=/usr/lib/*/libamdhip64*
path-exclude=/usr/lib/*/libz3*
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
force-unsafe-io
""",
    "etc/apt/preferences.d/testbed": """\
Package: *
Pin: release n=sid
Pin-Priority: 100
""",
    "usr/sbin/policy-rc.d": NO_DAEMONS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RootUser:
    """A user of the cluster as its root file system knows them."""

    name: str
    uid: int
    password: str
    apptainer: bool
    """Whether the user may execute apptainer; for others it is as if it were not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRoot:
    """The root file system for these users; with accounting it has a database too."""

    release: ReleaseName
    cache: Path
    authority: Authority
    users: tuple[RootUser, ...]
    accounting: bool

    @property
    def packages(self) -> tuple[str, ...]:
        accounting = ACCOUNTING_PACKAGES if self.accounting else ()
        return (*PACKAGES, *RELEASES[self.release].packages, *accounting)

    @property
    def path(self) -> Path:
        """Where it is, once built. Another recipe, user or CA makes another root."""
        texts = (Path(__file__).read_text(), MPI_SOURCE.read_text(), self.authority.certificate.read_text())
        ingredients = (texts, self.packages, self.users)
        return self.cache / f"root-{self.release}-{hashlib.sha256(repr(ingredients).encode()).hexdigest()[:12]}"

    def ensure(self) -> None:
        """Build it unless the cache has it: about a minute."""
        if self.path.exists():
            return
        partial = self.cache / f"root-{self.release}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _build(partial, mirror(), self)
        partial.rename(self.path)


def _build(root: Path, archive: Mirror, wanted: ClusterRoot) -> None:
    variables = {key.split("::")[1] + "_proxy": value for key, value in archive.proxies}
    env = {**CLEAN_ENV, **variables, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    include = "--include=ca-certificates"
    _contained(["debootstrap", "--variant=minbase", include, wanted.release, str(root), archive.uri], env)
    for path, text in FILES.items():
        (root / path).write_text(text)
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    release = RELEASES[wanted.release]
    suites = (wanted.release, "sid") if release.sid_packages else (wanted.release,)
    (root / "etc/apt/sources.list").write_text("".join(f"deb {archive.uri} {suite} main\n" for suite in suites))
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")

    def inside(*argv: str) -> None:
        _contained(["chroot", str(root), *argv], env)

    inside("apt-get", "-q", "update")
    inside("apt-get", "-q", "-y", "install", *wanted.packages, *(f"{name}/sid" for name in release.sid_packages))
    if release.mpi:
        _compile_mpi_program(root, inside)
    inside("apt-get", "clean")
    shutil.rmtree(root / "var/lib/apt/lists")
    (root / "etc/resolv.conf").write_text("")
    inside("groupadd", "--system", APPTAINER_GROUP)
    for user in wanted.users:
        groups = ["--groups", APPTAINER_GROUP] if user.apptainer else []
        inside("useradd", "--create-home", "--shell", "/bin/bash", "--uid", str(user.uid), *groups, user.name)
        run(["chroot", str(root), "chpasswd"], timeout_s=30, stdin=f"{user.name}:{user.password}\n")
    if (root / "usr/bin/apptainer").exists():
        _restrict_apptainer(root, inside)
    shutil.copy(wanted.authority.certificate, root / "usr/local/share/ca-certificates/testbed.crt")
    inside("update-ca-certificates")


def _compile_mpi_program(root: Path, inside: Callable[..., None]) -> None:
    inside("apt-get", "-q", "-y", "install", *COMPILER_PACKAGES)
    source = root / "tmp" / MPI_SOURCE.name
    shutil.copy(MPI_SOURCE, source)
    inside("mpicc", "-O1", "-o", f"/{MPI_PROGRAM}", f"/tmp/{MPI_SOURCE.name}")
    source.unlink()
    inside("apt-get", "-q", "-y", "purge", "--autoremove", *COMPILER_PACKAGES)


def _restrict_apptainer(root: Path, inside: Callable[..., None]) -> None:
    """Move it behind a directory that only its group may enter: for others no search of any PATH finds it.

    Clearing its x bits would not do: `command -v` names files that are not executable, too.
    Apptainer looks for its configuration and helpers beside the bin directory that it is in, hence the links.
    """
    prefix = Path("opt/apptainer")
    (root / prefix / "bin").mkdir(parents=True)
    for name in ("etc", "var", "usr/lib", "usr/libexec", "usr/share"):
        (root / prefix / Path(name).name).symlink_to(f"/{name}")
    (root / "usr/bin/apptainer").rename(root / prefix / "bin/apptainer")
    (root / "usr/bin/apptainer").symlink_to(f"/{prefix}/bin/apptainer")
    inside("chgrp", APPTAINER_GROUP, f"/{prefix}")
    inside("chmod", "0750", f"/{prefix}")


def _contained(argv: list[str], env: dict[str, str]) -> None:
    """Run in namespaces of its own: a build that is cut short leaves no process and no mount."""
    contained = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *argv]
    run(contained, timeout_s=BUILD_TIMEOUT_S, env=env)
