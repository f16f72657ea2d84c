"""Signals by the names that CRI, images and signal(7) have for them. Pure."""

import re
import signal

_REAL_TIME = re.compile(r"RTM(IN|AX)(?:(?:\+|PLUS|-|MINUS)(\d{1,2}))?")


def number_of(name: str) -> int | None:
    """Of ``SIGUSR1``, ``USR1``, ``10``, ``SIGRTMIN+3``, or CRI's ``SIGRTMINPLUS3``; None if there is none."""
    if name.isascii() and name.isdecimal():
        number = int(name)
    elif found := _REAL_TIME.fullmatch(word := name.upper().removeprefix("SIG")):
        distance = int(found[2] or 0)
        number = signal.SIGRTMIN + distance if found[1] == "IN" else signal.SIGRTMAX - distance
    else:
        number = int(getattr(signal.Signals, f"SIG{word}", 0))
    return number if 0 < number <= signal.SIGRTMAX else None
