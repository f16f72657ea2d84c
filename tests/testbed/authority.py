"""The bed's certificate authority, and server certificates from it."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.programs import run

DAYS = "3650"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    directory: Path

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def key(self) -> Path:
        return self.directory / "private.pem"  # skopeo takes a *.key beside the certificate for a client's key

    def ensure(self) -> None:
        if self.certificate.exists():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        made = self.certificate.with_suffix(".new")
        extensions = ("keyUsage=critical,keyCertSign,cRLSign",)
        _certify("multicri test bed CA", extensions, certificate=made, key=self.key)
        made.rename(self.certificate)

    def issue(self, *, name: str, address: ipaddress.IPv4Address, certificate: Path, key: Path) -> None:
        """Write a server certificate for a DNS name and an address."""
        extensions = (
            f"subjectAltName=DNS:{name},IP:{address}",
            "basicConstraints=critical,CA:FALSE",
            "extendedKeyUsage=serverAuth",
        )
        _certify(name, extensions, certificate=certificate, key=key, by=self)


def _certify(
    name: str, extensions: Sequence[str], *, certificate: Path, key: Path, by: Authority | None = None
) -> None:
    """Make a key and a certificate for it, signed by an authority or by itself."""
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += ["-days", DAYS, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)]
    for extension in extensions:
        argv += ["-addext", extension]
    if by is not None:
        argv += ["-CA", str(by.certificate), "-CAkey", str(by.key)]
    run(argv, timeout_s=60)
    key.chmod(0o600)
