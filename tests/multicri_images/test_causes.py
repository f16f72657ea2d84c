"""Builders' own words, as they were seen, and what they mean."""

import pytest
from multicri_images.causes import cause_of

from multicri_proxy.api.image import BuildCause as Cause

APPTAINER = "FATAL:   While performing build: "
GET = f'{APPTAINER}conveyor failed to get: Get "https://registry.test:5000/v2/": '
MANIFEST = f"{APPTAINER}conveyor failed to get: GET https://registry.test/v2/test/busybox/manifests/9: "
LAYER = f"{APPTAINER}conveyor failed to get: error writing layer: "
POOL = "error: GET failed: HTTPSConnectionPool(host='registry.test', port=5999): Max retries exceeded with url: /v2/ "


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (f"{MANIFEST}MANIFEST_UNKNOWN: manifest unknown; map[Tag:9]", Cause.NO_SUCH_IMAGE),
        (
            f"{MANIFEST}UNAUTHORIZED: authentication required; [map[Action:pull Class: Name:test/busybox]]",
            Cause.UNAUTHORIZED,
        ),
        (f"{GET}dial tcp: lookup nowhere.invalid on [::1]:53: read udp [::1]:49654: refused", Cause.UNREACHABLE),
        (f"{GET}dial tcp 10.77.0.1:5999: connect: connection refused", Cause.UNREACHABLE),
        (f"{GET}http: server gave HTTP response to HTTPS client", Cause.PLAIN_HTTP),
        (f"{GET}tls: failed to verify certificate: x509: certificate signed by unknown authority", Cause.UNTRUSTED),
        (f"{LAYER}unexpected EOF", Cause.CUT_OFF),
        (
            f'{LAYER}error verifying sha256 checksum after reading 108 bytes; got "sha256:5f6a", want "sha256:f3e6"',
            Cause.POISONED,
        ),
        (f"{LAYER}write /mnt/cache/blob/blobs/sha256/f3e64: no space left on device", Cause.NO_SPACE),
        (
            f"{APPTAINER}while creating SIF: while creating container: write /a.sif: no space left on device",
            Cause.NO_SPACE,
        ),
        (
            "error: unauthorized or not in registry: registry.test:443/test/busybox:9\n"
            "hint: if your registry needs authentication, use --auth",
            Cause.UNAUTHORIZED_OR_MISSING,
        ),
        ("error: no further authentication possible, giving up", Cause.UNAUTHORIZED),
        (
            f"{POOL}(Caused by NameResolutionError('...: Failed to resolve ([Errno -3] Temporary failure'))",
            Cause.UNREACHABLE,
        ),
        (f"{POOL}(Caused by NewConnectionError('...: [Errno 111] Connection refused'))", Cause.UNREACHABLE),
        (f"{POOL}(Caused by SSLError(SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong version')))", Cause.PLAIN_HTTP),
        (
            f"{POOL}(Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] failed')))",
            Cause.UNTRUSTED,
        ),
        (
            "urllib3.exceptions.ProtocolError: ('Connection broken: IncompleteRead(180224 bytes read, 907948 more')",
            Cause.CUT_OFF,
        ),
        ("error: registry streamed response content is invalid", Cause.POISONED),
        ("error: cannot write: /mnt/st/dlcache/f3e644.tar.gz: No space left on device", Cause.NO_SPACE),
        ("tar: ./bin/busybox: Cannot write: No space left on device", Cause.NO_SPACE),
        (
            "ch-run[52]: error: can't init user+mount namespaces: No space left on device (ch_core.c:738 28)",
            Cause.NO_USER_NAMESPACES,
        ),
        ("INFO:    Starting build...\nmulticri: the time for the build is over", Cause.TOO_LATE),
        ("", Cause.UNKNOWN),
    ],
)
def test_a_builders_words_are_understood(words: str, cause: Cause) -> None:
    assert cause_of(f"INFO:    Starting build...\n{words}\n") is cause
