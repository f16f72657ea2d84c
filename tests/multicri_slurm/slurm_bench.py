"""The adapter with the real cluster behind it; only the store and the secrets are of this process."""

import asyncio
import contextlib
import hashlib
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from multicri_images.builders import APPTAINER, CHARLIECLOUD, CHARLIECLOUD_SQUASHFS, SINGULARITY
from multicri_images.names import source_of
from multicri_images.pool import image_id
from multicri_slurm.adapter import adapter
from runtime.doubles import MemoryImages
from testbed import Testbed

from multicri_proxy.api.adapter import (
    Adapter,
    AdapterContext,
    ContainerSpec,
    OutputStream,
    Phase,
    Pod,
    Report,
    Resources,
)
from multicri_proxy.api.ids import ContainerId, ImageRef, PodSandboxId
from multicri_proxy.api.image import Image

T = TypeVar("T")
DEADLINE_S = 60.0
BOTH_WAYS = pytest.mark.parametrize(
    "bench", ["ssh", pytest.param("rest", marks=pytest.mark.first_parameters)], indirect=True
)
"""For tests that hold whichever way leads to the cluster; by the second way with the first of their parameters."""


class MemoryStore:
    """A Store that outlives an adapter, as the ledger does."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self._first: dict[str, asyncio.Event] = {}

    def written(self, key: str) -> asyncio.Event:
        """Set as soon as there is a row of this key."""
        return self._first.setdefault(key, asyncio.Event())

    async def put(self, key: str, value: bytes) -> None:
        self.rows[key] = value
        self.written(key).set()

    async def delete(self, key: str) -> None:
        self.rows.pop(key, None)

    async def items(self) -> Sequence[tuple[str, bytes]]:
        return tuple(self.rows.items())


class XorSecrets:
    """Not secret, but not plain either: what is opened must have been sealed, for the same thing."""

    def seal(self, plaintext: bytes, bound_to: str) -> bytes:
        return bytes(a ^ b for a, b in zip(plaintext, _pad(bound_to), strict=False))

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        return self.seal(sealed, bound_to)


def _pad(bound_to: str) -> Iterator[int]:
    for number in itertools.count():
        yield from hashlib.sha256(f"{bound_to}{number}".encode()).digest()


async def eventually(question: Callable[[], Awaitable[T | None]], what: str, within_s: float = DEADLINE_S) -> T:
    """Ask until there is an answer other than None and False."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while True:
        answer = await question()
        if answer is not None and answer is not False:
            return answer
        assert loop.time() < end, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.1)


@dataclass
class Bench:
    """One store, and an adapter at a time that stands on it."""

    bed: Testbed
    settings: dict[str, object]
    rest: bool = False
    """Over slurmrestd: who a pod is follows from its namespace, and nobody logs in anywhere."""
    store: MemoryStore = field(default_factory=MemoryStore)
    images: MemoryImages = field(default_factory=MemoryImages)
    reports: dict[ContainerId, list[Report]] = field(default_factory=dict)
    known: set[ContainerId] = field(default_factory=set)

    def containers_kept(self) -> list[str]:
        """The containers that the store remembers; of images it remembers others."""
        return [key for key in self.store.rows if not key.startswith("image/")]

    @contextlib.asynccontextmanager
    async def adapter(self, **settings: object) -> AsyncIterator[Adapter]:
        context = AdapterContext(
            settings=self.settings | settings,
            store=self.store,
            secrets=XorSecrets(),
            images=self.images,
            image_builders=(APPTAINER, SINGULARITY, CHARLIECLOUD, CHARLIECLOUD_SQUASHFS),
        )
        async with adapter(context) as entered:
            listening = asyncio.ensure_future(self._listen(entered))
            await entered.adopt(set(self.known))
            try:
                yield entered
            finally:
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listening

    async def _listen(self, entered: Adapter) -> None:
        async for report in entered.watch():
            self.reports.setdefault(report.container_id, []).append(report)

    def spec(
        self,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        *,
        user: str = "alice",
        env: Mapping[str, str | bytes] | None = None,
        cluster: Mapping[str, str | None] | None = None,
        image: str = "multicri/docker-repository.registry.test/test/busybox:1.0",
        working_dir: str = "",
        annotations: Mapping[str, str] | None = None,
        resources: Resources | None = None,
    ) -> ContainerSpec:
        person = self.bed.cluster.user(user)
        login = {
            "CLUSTER_HOST": self.bed.cluster.host,
            "CLUSTER_USERNAME": user,
            "CLUSTER_KEYVALUE": person.key.read_text(),
        }
        variables: dict[str, str | bytes | None] = {
            **({} if self.rest else login),
            "JOB_CUSTOM_CONFIG": "--time=5 --mem=100M",
            **(cluster or {}),
            **(env or {}),
        }
        source = source_of(image)
        container_id = ContainerId(secrets.token_hex(32))
        self.known.add(container_id)
        pod = Pod(
            sandbox_id=PodSandboxId(secrets.token_hex(32)),
            name="pod",
            namespace=user if self.rest else "default",
            uid="u",
            attempt=0,
            labels={},
            annotations=annotations or {},
        )
        return ContainerSpec(
            id=container_id,
            pod=pod,
            name="main",
            attempt=0,
            image=Image(id=image_id(source), source=source, names=(ImageRef(image),)),
            command=tuple(command),
            args=tuple(args),
            env=tuple(
                (name, v.encode() if isinstance(v, str) else v) for name, v in variables.items() if v is not None
            ),
            working_dir=working_dir,
            mounts=(),
            resources=resources or Resources(),
        )

    async def report(self, container_id: ContainerId, phase: Phase, within_s: float = DEADLINE_S) -> Report:
        """The first report of a phase, once it has come."""

        async def look() -> Report | None:
            return next((r for r in self.reports.get(container_id, ()) if r.phase is phase), None)

        return await eventually(look, f"a report with phase {phase.name}", within_s)

    def home_files(self, user: str, name: str) -> list[str]:
        """Files of the user below the working directory, whose path has this in it."""
        top = self.bed.cluster.user(user).home / str(self.settings["mount_path"])
        return [str(path) for path in top.rglob("*") if name in str(path)]

    def jobs(self, user: str, container_id: ContainerId) -> list[str]:
        """``id state`` of each job of a container that Slurm knows."""
        name = f"multicri-{container_id[:32]}"
        done = self.bed.cluster.run("login", ["squeue", "-h", "-t", "all", "-n", name, "-o", "%i %T"], user="root")
        return done.stdout.split("\n")[:-1]

    def job_facts(self, job_id: str) -> Mapping[str, str]:
        """What ``scontrol show job`` tells of a job, by name."""
        shown = self.bed.cluster.run("login", ["scontrol", "-o", "show", "job", job_id], check=True).stdout
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)


async def everything(entered: Adapter, container_id: ContainerId, stream: OutputStream, offset: int = 0) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return b"".join([piece async for piece in entered.output(container_id, stream, offset)])
