"""What the adapter remembers of each container: a row in the store, written before the thing it says is done."""

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from weakref import WeakValueDictionary

from multicri_proxy.api.adapter import Phase, Report, Secrets, Store
from multicri_proxy.api.errors import FailedPrecondition, NotFound
from multicri_proxy.api.ids import ContainerId, JobId, PodSandboxId
from multicri_slurm.accounts import DEFAULT_PROFILE, Account, Login
from multicri_slurm.profiles import Profiles

OF_IMAGES = "image/"
"""Begins the keys in the store that are no container's."""


class Stage(Enum):
    """How far a container has come. Each is written before the next step begins."""

    STAGING = "staging"
    STAGED = "staged"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A volume that is brought into the cluster again whenever the kubelet publishes a new version of it.

    number: of the mount. version: the one that the cluster has.
    """

    number: int
    host_path: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One container; or the allocation that containers of a pod share, which is a job like another.

    sealed: the pod's own credentials, bound to the container's id; empty if its profile has them.
    profile: whose settings it was created with. directory: absolute, in the cluster; empty until it is known.
    job_id: from SUBMITTED on. report, last_words, stderr_bytes: from ENDED on. last_words follow the container's
    stderr, after stderr_bytes (None: as long as the file is).
    results: absolute, in the cluster; what is in it stays. message_path: on the node, of the termination message.
    allocation: the record of the allocation in which the container is a step; None for a job of its own.
    step_id: of the step, from its start on; empty for a job of its own, which runs in the job's batch step.
    image_signature: what was found out about that, for a human; empty if nobody looked.
    allocation_of: the sandbox whose allocation this is; None for a container.
    way_back: the door to the node's network, sealed as the credentials are; empty for none.
    """

    container_id: ContainerId
    stage: Stage
    account: Account
    sealed: bytes
    profile: str
    directory: str
    job_name: str
    job_id: JobId | None = None
    report: Report | None = None
    last_words: str = ""
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    published: tuple[Published, ...] = ()
    results: str = ""
    message_path: str = ""
    allocation: ContainerId | None = None
    step_id: str = ""
    allocation_of: PodSandboxId | None = None
    image_signature: str = ""
    way_back: bytes = b""


def job_name_of(container_id: ContainerId) -> str:
    return f"multicri-{container_id[:32]}"


class Records:
    """All records: in memory, and in the store."""

    def __init__(self, store: Store, secrets: Secrets) -> None:
        self._store = store
        self._secrets = secrets
        self._records: dict[ContainerId, Record] = {}
        self._changing: WeakValueDictionary[ContainerId, asyncio.Lock] = WeakValueDictionary()

    async def load(self) -> None:
        for key, value in await self._store.items():
            if key.startswith(OF_IMAGES):
                continue
            try:
                record = _from_row(value)
            except (KeyError, TypeError, ValueError) as error:
                raise FailedPrecondition(f"the record of container {key} is of another version: {error}") from error
            self._records[record.container_id] = record

    def get(self, container_id: ContainerId) -> Record | None:
        return self._records.get(container_id)

    def all(self) -> Sequence[Record]:
        return tuple(self._records.values())

    async def put(self, record: Record) -> Record:
        await self._store.put(record.container_id, _to_row(record))
        self._records[record.container_id] = record
        return record

    async def change(self, container_id: ContainerId, **changes: object) -> Record:
        """Change some fields, whoever changes others at the same time. Raises NotFound if the record is gone."""
        async with self._lock_of(container_id):
            if container_id not in self._records:
                raise NotFound(f"container {container_id}")
            return await self.put(replace(self._records[container_id], **changes))  # type: ignore[arg-type]

    async def delete(self, container_id: ContainerId) -> None:
        async with self._lock_of(container_id):
            await self._store.delete(container_id)
            self._records.pop(container_id, None)

    def _lock_of(self, container_id: ContainerId) -> asyncio.Lock:
        return self._changing.setdefault(container_id, asyncio.Lock())

    def seal(self, container_id: ContainerId, login: Login) -> bytes:
        """What of a login a record has to keep."""
        return self._secrets.seal(login.credentials(), container_id) if login.proof is None else b""

    def sealed(self, data: bytes, container_id: ContainerId) -> bytes:
        """Something of a container that nobody is to read from the store."""
        return self._secrets.seal(data, container_id)

    def opened(self, sealed: bytes, container_id: ContainerId) -> bytes:
        """Raises FailedPrecondition if the key that sealed it is gone."""
        return self._secrets.open(sealed, container_id)

    def login(self, record: Record, profiles: Profiles) -> Login:
        """Raises FailedPrecondition if the key that sealed the credentials is gone, or the settings have changed."""
        profile = profiles.named(record.profile)
        if not record.sealed:
            return profile.login_as(record.account)
        credentials = self._secrets.open(record.sealed, record.container_id)
        return Login.from_credentials(record.account, profile.name, credentials)


def _to_row(record: Record) -> bytes:
    row = {
        "container_id": record.container_id,
        "stage": record.stage.value,
        "account": asdict(record.account),
        "sealed": base64.b64encode(record.sealed).decode(),
        "profile": record.profile,
        "directory": record.directory,
        "job_name": record.job_name,
        "job_id": record.job_id,
        "report": asdict(record.report) | {"phase": record.report.phase.value} if record.report else None,
        "last_words": record.last_words,
        "stdout_bytes": record.stdout_bytes,
        "stderr_bytes": record.stderr_bytes,
        "published": [asdict(published) for published in record.published],
        "results": record.results,
        "message_path": record.message_path,
        "image_signature": record.image_signature,
        "allocation": record.allocation,
        "step_id": record.step_id,
        "allocation_of": record.allocation_of,
        "way_back": base64.b64encode(record.way_back).decode(),
    }
    return json.dumps(row).encode()


def _from_row(value: bytes) -> Record:
    row = json.loads(value)
    report = row["report"]
    return Record(
        container_id=ContainerId(row["container_id"]),
        stage=Stage(row["stage"]),
        account=Account(**row["account"]),
        sealed=base64.b64decode(row["sealed"]),
        profile=row.get("profile", DEFAULT_PROFILE),
        directory=row["directory"],
        job_name=row["job_name"],
        job_id=JobId(row["job_id"]) if row["job_id"] is not None else None,
        report=Report(**(report | {"phase": Phase(report["phase"])})) if report else None,
        last_words=row["last_words"],
        stdout_bytes=row["stdout_bytes"],
        stderr_bytes=row["stderr_bytes"],
        published=tuple(Published(**published) for published in row.get("published", ())),
        results=row.get("results", ""),
        message_path=row.get("message_path", ""),
        image_signature=row.get("image_signature", ""),
        allocation=row.get("allocation"),
        step_id=row.get("step_id", ""),
        allocation_of=row.get("allocation_of"),
        way_back=base64.b64decode(row.get("way_back", "")),
    )
