"""Debian packages of this machine: which the bed needs, how they get installed, and which mirror apt uses here."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.programs import CLEAN_ENV, TestbedError, run

PACKAGES = (
    "busybox-static",
    "charliecloud",
    "containerd",
    "containernetworking-plugins",
    "debian-archive-keyring",
    "debootstrap",
    "dnsmasq-base",
    "docker-registry",
    "iproute2",
    "mount",
    "openssh-client",
    "openssl",
    "runc",
    "skopeo",
    "umoci",
)
POLICY = Path("/usr/sbin/policy-rc.d")
NO_DAEMONS = "#!/bin/sh\nexit 101\n"
APT_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A Debian archive as this machine's apt reaches it."""

    uri: str
    proxies: tuple[tuple[str, str], ...]
    """apt's own proxy settings, ("Acquire::http::Proxy", "http://…") each."""


def missing_packages() -> list[str]:
    listed = run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *PACKAGES], timeout_s=60, check=False
    ).stdout.splitlines()
    return [name for name in PACKAGES if f"installed {name}" not in listed]


def install_packages() -> None:
    """Install what is missing, without recommends, and start no daemon (invoke-rc.d asks policy-rc.d)."""
    missing = missing_packages()
    if not missing:
        return
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "DPkg::Use-Pty=0"]
    env = {**CLEAN_ENV, "DEBIAN_FRONTEND": "noninteractive"}
    run([*apt, "update"], timeout_s=APT_TIMEOUT_S, env=env)
    with no_daemons_started():
        run([*apt, "install", "--no-install-recommends", *missing], timeout_s=APT_TIMEOUT_S, env=env)


@contextlib.contextmanager
def no_daemons_started() -> Iterator[None]:
    """Forbid packages to start daemons; restore the machine's own policy afterwards."""
    before = (POLICY.read_bytes(), POLICY.stat().st_mode) if POLICY.exists() else None
    POLICY.write_text(NO_DAEMONS)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            POLICY.unlink()
        else:
            POLICY.write_bytes(before[0])
            POLICY.chmod(before[1])


def mirror() -> Mirror:
    """Find the archive that this machine installs its own release from.

    Raises TestbedError if apt knows none: run `apt-get update` once.
    """
    release = _os_release()["VERSION_CODENAME"]
    columns = "$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)"
    targets = run(["apt-get", "indextargets", "--format", columns, "Created-By: Packages"], timeout_s=60).stdout
    for target in targets.splitlines():
        origin, codename, component, uri = target.split("|", 3)
        if (origin, codename, component) == ("Debian", release, "main"):
            return Mirror(uri=uri, proxies=_apt_proxies())
    raise TestbedError(f"apt knows no Debian archive for {release}; run apt-get update")


def _apt_proxies() -> tuple[tuple[str, str], ...]:
    proxies = []
    for key, variable in (("Acquire::http::Proxy", "http_proxy"), ("Acquire::https::Proxy", "https_proxy")):
        configured = run(["apt-config", "dump", "--format", "%v", key], timeout_s=60).stdout.strip()
        if value := configured or os.environ.get(variable, ""):
            proxies.append((key, value))
    return tuple(proxies)


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
