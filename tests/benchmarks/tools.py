"""What the benchmark needs of Debian, and the building of its Go half."""

import os
from pathlib import Path

from testbed.packages import no_daemons_started
from testbed.programs import CLEAN_ENV, run

PACKAGES = ("golang-go", "golang-google-grpc-dev", "nginx-light")

_HERE = Path(__file__).parent
_BUILD = _HERE / "build"
_INSTALL_TIMEOUT_S, _BUILD_TIMEOUT_S = 900, 600


def install_packages() -> None:
    """Install what is missing, without recommends, and start no daemon."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *PACKAGES]
    listed = run(query, timeout_s=60, check=False).stdout.splitlines()
    missing = [name for name in PACKAGES if f"installed {name}" not in listed]
    if not missing:
        return
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "DPkg::Use-Pty=0"]
    environment = {**CLEAN_ENV, "DEBIAN_FRONTEND": "noninteractive"}
    for variable in ("http_proxy", "https_proxy"):
        if value := os.environ.get(variable):
            environment[variable] = value
    run([*apt, "update"], timeout_s=_INSTALL_TIMEOUT_S, env=environment)
    with no_daemons_started():
        run([*apt, "install", "--no-install-recommends", *missing], timeout_s=_INSTALL_TIMEOUT_S, env=environment)


def build() -> Path:
    """Build the backend and the load generator, one program, from Debian's sources alone."""
    _BUILD.mkdir(exist_ok=True)
    program = _BUILD / "crib"
    environment = {
        **CLEAN_ENV,
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOCACHE": str(_BUILD / "cache"),
        "GOFLAGS": "-buildvcs=false",
        "CGO_ENABLED": "0",
    }
    sources = [str(path) for path in sorted((_HERE / "go").glob("*.go"))]
    run(["go", "build", "-o", str(program), *sources], timeout_s=_BUILD_TIMEOUT_S, env=environment)
    return program
