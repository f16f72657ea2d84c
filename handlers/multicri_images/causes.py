"""Why a build failed, read from what Apptainer, SingularityCE or ch-image wrote. Pure.

The first row that is found anywhere in the text is heard, so what is more certain comes first: where user namespaces
are exhausted, Linux says that no space is left.

Source: Apptainer 1.4 (whose registry client is go-containerregistry), ch-image 0.38 (requests, urllib3), as they were
seen; tests/multicri_images/test_causes.py has their words.
"""

import re

from multicri_proxy.api.image import BuildCause

_TABLE = tuple(
    (re.compile(pattern, re.IGNORECASE), cause)
    for pattern, cause in (
        (r"user.{0,20}namespace", BuildCause.NO_USER_NAMESPACES),
        (r"no space left on device|disk quota exceeded", BuildCause.NO_SPACE),
        (r"verifying sha256 checksum|response content is invalid", BuildCause.POISONED),
        (r"MANIFEST_UNKNOWN|NAME_UNKNOWN|manifest unknown", BuildCause.NO_SUCH_IMAGE),
        (r"unauthorized or not in registry", BuildCause.UNAUTHORIZED_OR_MISSING),
        (r"UNAUTHORIZED|\bDENIED:|403 Forbidden|no further authentication possible", BuildCause.UNAUTHORIZED),
        (r"HTTP response to HTTPS client|WRONG_VERSION_NUMBER", BuildCause.PLAIN_HTTP),
        (r"x509:|CERTIFICATE_VERIFY_FAILED", BuildCause.UNTRUSTED),
        (r"unexpected EOF|IncompleteRead|connection reset|connection broken|broken pipe", BuildCause.CUT_OFF),
        (
            r"dial tcp|no such host|i/o timeout|NameResolutionError|NewConnectionError|ConnectTimeout|no route to host",
            BuildCause.UNREACHABLE,
        ),
        (r"multicri: the time for the build is over", BuildCause.TOO_LATE),
    )
)


def cause_of(log: str) -> BuildCause:
    """log: the end of what the builder wrote."""
    return next((cause for pattern, cause in _TABLE if pattern.search(log)), BuildCause.UNKNOWN)
