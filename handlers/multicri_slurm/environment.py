"""A container's environment, written into a file that its runtime reads exactly. Pure.

It never goes through a command line, where every user of the node could read it. What each runtime can carry was found
by trying (Apptainer 1.4, Charliecloud 0.38):

- Apptainer evaluates ``--env-file`` as shell text (mvdan/sh) and once more inside of the container. Single quotes hold
  everything but: a carriage return before a newline (dropped), bytes that are no UTF-8 (refused), names that are no
  shell names, and names that its shell keeps for itself. HOME needs ``--home``.
- ch-run ``--set-env0`` takes one newline off the end of an entry and one pair of single quotes off a value: so every
  value is put into one pair. Nothing else is touched, with ``--env-no-expand``; any name passes.
- ch-run ``--set-env``, all that there is before 0.34, parts entries by newlines.
"""

import re
from collections.abc import Collection, Mapping

from multicri_proxy.api.errors import InvalidArgument

LONGEST_STRING_BYTES = 131_071
"""Linux takes no longer argument or ``NAME=value`` in execve(2): MAX_ARG_STRLEN, less its closing NUL."""

LARGEST_TOTAL_BYTES = 1024 * 1024
MOST_STRINGS = 16_384
"""Each costs the event loop microseconds."""

_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NAME = re.compile(r"[!-<>-~]+", re.ASCII)  # what Kubernetes' relaxed check allows: printable ASCII without "="
_HOME = re.compile(r"/[^:,\0\n]*")
KEPT_BY_APPTAINERS_SHELL = frozenset({"UID", "EUID", "GID", "IFS", "OPTIND", "PWD"})


def check_sizes(words: Collection[str], env: Mapping[str, bytes]) -> None:
    """Raises InvalidArgument if the kernel of a node would not take these arguments and this environment."""
    if (number := len(words) + len(env)) > MOST_STRINGS:
        raise InvalidArgument(f"command, args and env are {number} words and variables: at most {MOST_STRINGS}")
    total = 0
    for number, word in enumerate(words):
        length = len(word.encode("utf-8", "surrogatepass"))
        if "\0" in word:
            raise InvalidArgument(f"command and args: word {number} holds a NUL byte, which no program can be given")
        if length > LONGEST_STRING_BYTES:
            raise InvalidArgument(
                f"command and args: word {number} has {length} bytes, and Linux takes {LONGEST_STRING_BYTES}"
            )
        total += length + 1
    for name, value in env.items():
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"env {name[:80]!r}: a name must consist of printable ASCII characters other than =")
        if b"\0" in value:
            raise InvalidArgument(f"env {name}: the value holds a NUL byte, which no environment can carry")
        length = len(name) + 1 + len(value)
        if length > LONGEST_STRING_BYTES:
            raise InvalidArgument(
                f"env {name}: name and value have {length} bytes together, and Linux takes {LONGEST_STRING_BYTES}"
            )
        total += length + 1
    if total > LARGEST_TOTAL_BYTES:
        raise InvalidArgument(f"command, args and env have {total} bytes together: at most {LARGEST_TOTAL_BYTES}")


def home_of(env: Mapping[str, bytes]) -> str | None:
    """HOME, which Apptainer wants as an option of its own; None if the pod sets none."""
    value = env.get("HOME")
    if value is None:
        return None
    text = value.decode("utf-8", "replace")
    if not _HOME.fullmatch(text) or "�" in text:
        raise InvalidArgument(f"env HOME={text[:80]!r}: must be an absolute path without colon, comma and newline")
    return text


def apptainer_env_file(env: Mapping[str, bytes]) -> bytes:
    """For ``--env-file`` with ``--no-eval``; HOME is left out.

    Raises InvalidArgument for what Apptainer would not carry exactly.
    """
    lines = []
    for name, value in env.items():
        if name == "HOME":
            continue
        if not _SHELL_NAME.fullmatch(name):
            raise InvalidArgument(
                f"env {name}: Apptainer's --env-file carries names of A-Z a-z 0-9 _ only, not beginning with a digit"
            )
        if name in KEPT_BY_APPTAINERS_SHELL:
            raise InvalidArgument(f"env {name}: Apptainer's shell keeps this name for itself and does not pass it on")
        if b"\r\n" in value:
            raise InvalidArgument(
                f"env {name}: the value holds a carriage return before a newline, which Apptainer would drop"
            )
        try:
            value.decode()
        except UnicodeDecodeError:
            raise InvalidArgument(f"env {name}: the value is not UTF-8, and Apptainer takes nothing else") from None
        lines.append(name.encode() + b"='" + value.replace(b"'", b"'\"'\"'") + b"'\n")
    return b"".join(lines)


def charliecloud_env0_file(env: Mapping[str, bytes]) -> bytes:
    """For ``--set-env0`` with ``--env-no-expand``: carries everything."""
    return b"".join(name.encode() + b"='" + value + b"'\0" for name, value in env.items())


def charliecloud_env_file(env: Mapping[str, bytes]) -> bytes:
    """For ``--set-env`` with ``--env-no-expand``: Charliecloud before 0.34.

    Raises InvalidArgument for a value with a newline.
    """
    for name, value in env.items():
        if b"\n" in value:
            raise InvalidArgument(f"env {name}: the value holds a newline, which Charliecloud takes from 0.34 on")
    return b"".join(name.encode() + b"='" + value + b"'\n" for name, value in env.items())
