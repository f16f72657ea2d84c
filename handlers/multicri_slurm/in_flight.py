"""The limit on how many containers of a profile are under way at a time.

It is kept where a container is created, not where it is started: one that is refused then has left nothing behind, and
the kubelet asks again.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from multicri_proxy.api.errors import ResourceExhausted
from multicri_proxy.api.ids import ContainerId
from multicri_slurm.profiles import Profile
from multicri_slurm.records import Records, Stage


class InFlight:
    """Counts what is recorded and has not ended, and what is about to be recorded."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._coming: dict[ContainerId, str] = {}

    @contextmanager
    def one_more(self, profile: Profile, container_id: ContainerId) -> Iterator[None]:
        """Hold a place until the container is recorded. Raises ResourceExhausted if there is none."""
        limit = profile.settings.max_jobs
        if limit is not None and len(self._of(profile.name) - {container_id}) >= limit:
            raise ResourceExhausted(
                f"{limit} containers of this node are under way in the cluster {profile.name!r}, and "
                f"{profile.section}.max_jobs allows no more: it is tried again"
            )
        self._coming[container_id] = profile.name
        try:
            yield
        finally:
            del self._coming[container_id]

    def _of(self, profile: str) -> set[ContainerId]:
        recorded = {
            r.container_id
            for r in self._records.all()
            if r.profile == profile and r.stage is not Stage.ENDED and r.allocation_of is None
        }
        return recorded | {key for key, name in self._coming.items() if name == profile}
