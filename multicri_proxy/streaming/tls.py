"""The certificate with which exec, attach and port-forward are served: the admin's, or one that is made for a start."""

import ipaddress
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from multicri_proxy.api.errors import FailedPrecondition

_VALID = timedelta(days=3650)
_CLOCKS_DIFFER = timedelta(days=1)


def server_context(certificate: Path | None, key: Path | None, address: str) -> ssl.SSLContext:
    """TLS 1.2 or later. Blocks. Raises FailedPrecondition if the files do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is None or key is None:
        _load(context, _self_made(address))
        return context
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise FailedPrecondition(
            f"stream_tls_cert {certificate} and stream_tls_key {key} cannot be used: {error}"
        ) from error
    return context


def _self_made(address: str) -> bytes:
    """A certificate for an IP and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "multicri-proxy")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """OpenSSL wants a file; one in memory leaves no key on a disk."""
    descriptor = os.memfd_create("stream certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
