"""Private keys, checked where nobody waits for it."""

import asyncio
import time

import asyncssh
import pytest
from multicri_slurm.keys import LONGEST_KEY, Keys

from multicri_proxy.api.errors import InvalidArgument


@pytest.mark.parametrize(("kind", "bits"), [("ssh-ed25519", 0), ("ssh-rsa", 4096)])
async def test_a_key_is_good_in_both_formats(kind: str, bits: int) -> None:
    key = asyncssh.generate_private_key(kind, **({"key_size": bits} if bits else {}))
    for form in ("openssh", "pkcs8-pem"):
        text = key.export_private_key(form).decode()
        assert len(text) <= LONGEST_KEY
        await Keys().check(text)


async def test_what_is_wrong_with_a_key_is_said_and_the_key_is_not() -> None:
    locked = asyncssh.generate_private_key("ssh-ed25519").export_private_key("pkcs8-pem", passphrase="x").decode()
    broken = "-----BEGIN OPENSSH PRIVATE KEY-----\nsecretsecret\n-----END OPENSSH PRIVATE KEY-----\n"
    for text, reason in ((locked, "passphrase"), (broken, "is not a private key")):
        with pytest.raises(InvalidArgument, match=reason) as caught:
            await Keys().check(text)
        assert "secretsecret" not in str(caught.value)


async def test_the_event_loop_turns_while_a_key_is_checked() -> None:
    """4096 bits stop an interpreter that checks them for a third of a second. Counted is what this process computes."""
    text = asyncssh.generate_private_key("ssh-rsa", key_size=4096).export_private_key("pkcs8-pem").decode()
    checking, longest_s = asyncio.ensure_future(Keys().check(text)), 0.0
    while not checking.done():
        before = time.process_time()
        await asyncio.sleep(0)
        longest_s = max(longest_s, time.process_time() - before)
    await checking
    assert longest_s < 0.2
