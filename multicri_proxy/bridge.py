"""Lets a kubelet and a runtime of different ages talk: CRI's two versions differ in their methods' paths alone."""

import grpc

from multicri_proxy.calls import CallFailed
from multicri_proxy.methods import METHODS, V1, V1ALPHA2, in_version, version_of

_OTHER = {V1: V1ALPHA2, V1ALPHA2: V1}


class Bridge:
    """Which version of CRI one runtime lacks, as it said itself; forgotten when it goes away, for it may be updated."""

    def __init__(self) -> None:
        self._lacking: str | None = None

    def path(self, path: str) -> str:
        """The path under which the runtime knows this method, as far as has been learnt."""
        if self._lacking is None or path not in METHODS or version_of(path) != self._lacking:
            return path
        return in_version(path, _OTHER[self._lacking])

    def other(self, path: str, failure: CallFailed) -> str | None:
        """The path to try instead of one that failed, if the runtime may know the other version.

        A runtime that is away may come back as another one: what was learnt of it is forgotten.

        grpc-go, in which containerd and CRI-O are written, answers "unknown service" for a version that is not there.
        """
        if failure.code is grpc.StatusCode.UNAVAILABLE:
            self._lacking = None
        unknown = failure.code is grpc.StatusCode.UNIMPLEMENTED and failure.details.startswith("unknown service")
        if not unknown:
            return None
        return in_version(path, _OTHER[version_of(path)])

    def knows(self, path: str) -> None:
        """Learn that the runtime knows this path, and not the same in the other version."""
        self._lacking = _OTHER[version_of(path)]
