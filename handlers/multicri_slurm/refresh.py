"""What the kubelet publishes anew, for containers that have not ended: ConfigMaps, Secrets, tokens."""

import asyncio
import random
from collections.abc import Callable

from multicri_proxy.api.errors import MulticriError, Unavailable
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.log import Log
from multicri_slurm.accounts import Account
from multicri_slurm.carrying import Carrier
from multicri_slurm.records import Record, Records, Stage
from multicri_slurm.verbs import ClusterVerbs

AT_ONCE = 4
_FRESH = frozenset({Stage.STAGED, Stage.SUBMITTING, Stage.SUBMITTED})
_log = Log("slurm.volumes")


class Refresher:
    """Looks at all of them now and then. What a record says is in the cluster is there, also after a crash."""

    def __init__(
        self, carrier: Carrier, records: Records, cluster_of: Callable[[Record], ClusterVerbs], interval_s: float
    ) -> None:
        self._carrier = carrier
        self._records = records
        self._cluster_of = cluster_of
        self._interval_s = interval_s
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._failing: set[ContainerId] = set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s * random.uniform(0.8, 1.2))  # noqa: S311
            records = [record for record in self._records.all() if record.published and record.stage in _FRESH]
            self._failing &= {record.container_id for record in records}
            by_account: dict[Account, list[Record]] = {}
            for record in await self._outdated(records):
                by_account.setdefault(record.account, []).append(record)
            await asyncio.gather(*map(self._refresh_all, by_account.values()))

    async def _outdated(self, records: list[Record]) -> list[Record]:
        if not records:
            return []
        try:
            return await self._carrier.outdated(records)
        except Unavailable as error:
            _log.warning("volumes cannot be looked at", reason=error)
            return []

    async def _refresh_all(self, records: list[Record]) -> None:
        """One account's, one after the other; a silent cluster is not asked twice in one round."""
        for record in records:
            try:
                await self._refresh(record)
                self._failing.discard(record.container_id)
            except MulticriError as error:
                if record.container_id not in self._failing:
                    _log.warning("volumes cannot be refreshed", container_id=record.container_id, reason=error)
                self._failing.add(record.container_id)
                if isinstance(error, Unavailable):
                    break
            except Exception as error:
                _log.defect("volumes cannot be refreshed", error, container_id=record.container_id)

    async def _refresh(self, record: Record) -> None:
        async with self._turns:
            fresh = await self._carrier.refresh(record, self._cluster_of(record))
        await self._records.change(record.container_id, published=fresh)
        _log.info("volumes refreshed", container_id=record.container_id)
