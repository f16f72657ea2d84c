"""What has become of images so far: counted where it happens, read for an admin's metrics."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

BUCKETS_S = (1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Upper ends, in which the durations of builds are counted."""

Result = Literal["ok", "failed"]


@dataclass(slots=True)
class Durations:
    """How long something took each time. buckets: how often up to which of BUCKETS_S, or longer, each time in one."""

    sum_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))

    def add(self, seconds: float) -> None:
        self.sum_s += seconds
        self.buckets[sum(end < seconds for end in BUCKETS_S)] += 1


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """Since the daemon's start, counted on its event loop.

    pulls: by source (``docker``, ``oras``, ...; ``unknown`` for a name that is none) and result. builds: by builder and
    result. uploads: of images to clusters, by result. evictions: images removed for want of room, by where: ``pool``,
    or ``cluster`` for those in a directory there.
    """

    pulls: Counter[tuple[str, Result]] = field(default_factory=Counter)
    builds: dict[tuple[str, Result], Durations] = field(default_factory=dict)
    uploads: Counter[Result] = field(default_factory=Counter)
    evictions: Counter[Literal["pool", "cluster"]] = field(default_factory=Counter)

    def built(self, builder: str, result: Result, seconds: float) -> None:
        self.builds.setdefault((builder, result), Durations()).add(seconds)
