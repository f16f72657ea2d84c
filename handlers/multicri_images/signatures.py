"""Whether an image of a registry is signed, as cosign says, where it is installed. It is asked at each pull.

Source: cosign verify(1) of Sigstore: status 0 for a signature by the key, what is wrong on stderr.
"""

import asyncio
from collections.abc import Sequence

from multicri_proxy.api.children import ask

PROGRAM = "cosign"
TIMEOUT_S = 60.0
VERIFIED = "verified by cosign"
UNVERIFIED = "images.signatures: enforce, and when it was pulled nobody looked whether it is signed"
NO_KEYS = "there are no keys to compare SIF files with: set images.signature_keys"
_LONGEST_WORDS = 300


def is_verified(words: str) -> bool:
    return words.startswith(VERIFIED)


async def verified(
    *, reference: str, key: str, arguments: Sequence[str], docker_config: bytes, ca_file: str, plain_http: bool
) -> str:
    """What cosign says of it, for a human; `is_verified` tells.

    reference: with a digest; empty if none is known. docker_config: credentials; empty for none.
    """
    if not key:
        return "not verified: there is no key to compare it with: set images.cosign_key"
    if not reference:
        return "not verified: its registry was not asked for its digest: set images.resolve to always"
    more = ["--allow-http-registry"] if plain_http else []
    question = {
        "words": [PROGRAM, "verify", "--key", key, *arguments, *more, reference],
        "docker_config": docker_config.decode(),
        "ca_file": ca_file,
        "timeout_s": TIMEOUT_S,
    }
    try:
        async with asyncio.timeout(TIMEOUT_S + 5):
            answer = await ask("multicri_images.verifying", question)
    except (OSError, ValueError, TimeoutError) as error:
        return f"not verified: cosign ended early: {type(error).__name__}"
    if answer.get("status") == 0:
        return f"{VERIFIED} with {key}"
    return f"not verified: {str(answer.get('words'))[-_LONGEST_WORDS:]}"
