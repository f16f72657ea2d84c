"""How an adapter's settings are tried out, for ``multicri-proxy check``. An adapter may come without it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from multicri_proxy.api.image import ImageBuilder


class Verdict(Enum):
    """DOUBTFUL: pods run, but not as well as they could."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    of: what was tried, as a profile and an account; findings of one come one after the other. what: one or two words.
    meaning: a sentence, or a fact. mend: what to do about it; empty if nothing.
    """

    of: str
    what: str
    verdict: Verdict
    meaning: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """What to try.

    settings: the section of the configuration that has the adapter's name, not yet checked.
    profile: which part of them; None for all. namespace: as whose pods; None for all that the settings name.
    environment: where a pod's own variables may be given. run_job: whether something small may be run as pods are.
    """

    settings: Mapping[str, object]
    handlers: Sequence[str]
    image_builders: Sequence[ImageBuilder]
    profile: str | None
    namespace: str | None
    environment: Mapping[str, str]
    run_job: bool = False


class Check(Protocol):
    """A plug-in: the object that an entry point of the group ``multicri_proxy.checks`` names, called as its adapter."""

    def __call__(self, request: CheckRequest) -> AsyncIterator[Finding]:
        """What was found, as it is found; nothing is left behind where it was tried.

        Raises InvalidArgument if a setting is wrong, or there is no such profile.
        """
        ...
