"""The text that is sourced before anything else runs in the cluster: the admin's, then the pod's. Pure."""

import shlex

LONGEST_PRERUN = 65_536
"""Bytes, of either text."""


def prerun_of(admins: str, pods: str) -> bytes | None:
    """Both as one text for bash to source; the first one that fails ends it with its code. None if there is none."""
    texts = [text for text in (admins, pods) if text]
    if not texts:
        return None
    return _OR_RETURN.join(texts).encode()


def with_prerun(script: str, prerun: bytes | None) -> tuple[str, str]:
    """A remote script and the shell for it; with a prerun text, one that sources it first.

    If the text fails the script says ``error=prerun`` and ``prerun=CODE``, and runs no further. The
    text reads nothing and says nothing: input and output are the script's.
    """
    if prerun is None:
        return "sh", script
    text = shlex.quote(prerun.decode())
    return "bash", f"{_SOURCE.replace('@TEXT@', text)}{script}"


_OR_RETURN = """
multicri_code=$?; [ "$multicri_code" = 0 ] || return "$multicri_code"
"""

_SOURCE = r"""
multicri_text=@TEXT@
exec 4>&1
multicri_ended() {
  trap - EXIT
  printf 'multicri:prerun=%s\nmulticri:error=prerun\n' "$1" >&4
  exit
}
trap 'multicri_ended "$?"' EXIT
source /dev/fd/3 3<<< "$multicri_text" < /dev/null > /dev/null
multicri_code=$?
set +eu +o pipefail
[ "$multicri_code" = 0 ] || multicri_ended "$multicri_code"
trap - EXIT
exec 4>&-
cd
"""
