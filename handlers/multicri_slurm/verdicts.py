"""What a check makes of what the remote scripts say: findings about one account, and how programs' words are read."""

from collections.abc import Mapping
from dataclasses import dataclass

from multicri_proxy.api.check import Finding, Verdict

Facts = Mapping[str, tuple[str, ...]]
"""Of a script that tries programs: NAME is the code of one, NAME-line what it said."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """of: as in `Finding`. what, meaning, mend: likewise."""

    of: str

    def good(self, what: str, meaning: str) -> Finding:
        return Finding(of=self.of, what=what, verdict=Verdict.GOOD, meaning=meaning)

    def doubtful(self, what: str, meaning: str, mend: str = "") -> Finding:
        return Finding(of=self.of, what=what, verdict=Verdict.DOUBTFUL, meaning=meaning, mend=mend)

    def bad(self, what: str, meaning: str, mend: str = "") -> Finding:
        return Finding(of=self.of, what=what, verdict=Verdict.BAD, meaning=meaning, mend=mend)


def code_of(found: Facts, name: str) -> int | None:
    told = found.get(name, ("",))[0]
    return int(told) if told.isdecimal() else None


def line_of(found: Facts, name: str) -> str:
    """The first one that is not empty."""
    return next((line.strip() for line in found.get(f"{name}-line", ()) if line.strip()), "")


def lines_of(found: Facts, name: str) -> str:
    return " / ".join(line.strip() for line in found.get(f"{name}-line", ()) if line.strip())[:300] or "no answer"
