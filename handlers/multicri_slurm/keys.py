"""Is this text a private key? Found out by a process of its own, within a time limit.

To check an RSA key takes from a tenth of a second (2048 bits) to minutes (one that was made for it), and the
interpreter's lock is held meanwhile, in whatever thread: here, every ordinary pod's call would wait for it.
"""

import asyncio
import hashlib
import sys

from multicri_proxy.api.errors import InvalidArgument, Unavailable

LONGEST_KEY = 4096
"""Characters: RSA of 4096 bits has 3,400."""

_CHECK_S = 20.0
_MOST_REMEMBERED = 1000
_CHECK = """
import sys
import asyncssh
try:
    asyncssh.import_private_key(sys.stdin.read())
except Exception as error:
    print("passphrase" if "passphrase" in str(error).lower() else "no key")
"""


class Keys:
    """Checks private keys, each once."""

    def __init__(self) -> None:
        self._good: set[bytes] = set()
        self._one_at_a_time = asyncio.Lock()

    async def check(self, text: str, name: str = "CLUSTER_KEYVALUE") -> None:
        """Raises InvalidArgument if the text is no private key that can be used, without showing it.

        name: of the variable or file that it comes from.
        """
        digest = hashlib.sha256(text.encode()).digest()
        async with self._one_at_a_time:
            if digest in self._good:
                return
            match await _verdict(text, name):
                case "passphrase":
                    raise InvalidArgument(f"{name}: is a key with a passphrase: must be one without")
                case "no key":
                    raise InvalidArgument(f"{name}: is not a private key in OpenSSH or PEM format")
            if len(self._good) >= _MOST_REMEMBERED:
                self._good.clear()
            self._good.add(digest)


async def _verdict(text: str, name: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", _CHECK),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_CHECK_S):
            said, _ = await process.communicate(text.encode())
    except TimeoutError as error:
        raise Unavailable(f"{name}: the key could not be checked within {_CHECK_S:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode().strip() if process.returncode == 0 else "no key"
