"""Single-use tokens: each stands for what its bearer may do, once and soon."""

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from multicri_proxy.api.errors import ResourceExhausted

_T = TypeVar("_T")

_TOKEN_BYTES = 32
_LIFE_S = 60.0
_MOST = 1000


class Tokens(Generic[_T]):
    """Kept by their SHA-256: how long it takes to find that one is unknown tells nothing of those that are known."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._given: dict[bytes, tuple[float, _T]] = {}  # oldest first

    def give(self, what: _T) -> str:
        """A token of letters, digits, '-' and '_'. Raises ResourceExhausted if too many are out."""
        self._expire()
        if len(self._given) >= _MOST:
            raise ResourceExhausted(f"{_MOST} streams were asked for within {_LIFE_S:g} s, and not opened: try later")
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._given[_digest(token)] = (self._now_s() + _LIFE_S, what)
        return token

    def take(self, token: str) -> _T | None:
        """What it stands for; None if it is unknown, too old, or was taken before."""
        self._expire()
        _, what = self._given.pop(_digest(token), (0.0, None))
        return what

    def _expire(self) -> None:
        now_s = self._now_s()
        for digest, (until_s, _) in list(self._given.items()):
            if until_s > now_s:
                return
            del self._given[digest]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
