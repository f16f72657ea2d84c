"""What every adapter is tried on: a store and secrets of this process, and whatever runs its containers."""

import asyncio
import contextlib
import hashlib
import itertools
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from multicri_images.builders import APPTAINER, CHARLIECLOUD, CHARLIECLOUD_SQUASHFS, SINGULARITY
from multicri_images.names import source_of
from multicri_images.pool import image_id
from runtime.doubles import MemoryImages

from multicri_proxy.api.adapter import (
    Adapter,
    AdapterContext,
    AdapterFactory,
    ContainerSpec,
    OutputStream,
    Phase,
    Pod,
    Report,
    Resources,
)
from multicri_proxy.api.ids import ContainerId, ImageRef, PodSandboxId
from multicri_proxy.api.image import Image, ImagePool

T = TypeVar("T")
DEADLINE_S = 60.0


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
class AdapterBench(ABC):
    """One store, and an adapter at a time that stands on it."""

    factory: AdapterFactory
    settings: dict[str, object]
    store: MemoryStore = field(default_factory=MemoryStore)
    images: ImagePool = field(default_factory=MemoryImages)
    reports: dict[ContainerId, list[Report]] = field(default_factory=dict)
    known: set[ContainerId] = field(default_factory=set)

    @abstractmethod
    def spec(
        self,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str | bytes] | None = None,
        resources: Resources | None = None,
    ) -> ContainerSpec:
        """A container of the bed's busybox, in a pod of its own."""

    @abstractmethod
    def remains(self, spec: ContainerSpec) -> list[str]:
        """What is left of a container outside of the store: files, and processes that run."""

    def container(
        self,
        image: str,
        command: Sequence[str],
        args: Sequence[str],
        env: Mapping[str, str | bytes | None],
        *,
        namespace: str = "default",
        annotations: Mapping[str, str] | None = None,
        working_dir: str = "",
        resources: Resources | None = None,
    ) -> ContainerSpec:
        """env: what is None is left out."""
        source = source_of(image)
        container_id = ContainerId(secrets.token_hex(32))
        self.known.add(container_id)
        pod = Pod(
            sandbox_id=PodSandboxId(secrets.token_hex(32)),
            name="pod",
            namespace=namespace,
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
            env=tuple((name, v.encode() if isinstance(v, str) else v) for name, v in env.items() if v is not None),
            working_dir=working_dir,
            mounts=(),
            resources=resources or Resources(),
        )

    def containers_kept(self) -> list[str]:
        """The containers that the store remembers; of images it remembers others."""
        return [key for key in self.store.rows if not key.startswith("image")]

    @contextlib.asynccontextmanager
    async def adapter(self, **settings: object) -> AsyncIterator[Adapter]:
        context = AdapterContext(
            settings=self.settings | settings,
            store=self.store,
            secrets=XorSecrets(),
            images=self.images,
            image_builders=(APPTAINER, SINGULARITY, CHARLIECLOUD, CHARLIECLOUD_SQUASHFS),
        )
        async with self.factory(context) as entered:
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

    async def report(self, container_id: ContainerId, phase: Phase, within_s: float = DEADLINE_S) -> Report:
        """The first report of a phase, once it has come."""

        async def look() -> Report | None:
            return next((r for r in self.reports.get(container_id, ()) if r.phase is phase), None)

        return await eventually(look, f"a report with phase {phase.name}", within_s)


async def everything(entered: Adapter, container_id: ContainerId, stream: OutputStream, offset: int = 0) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return b"".join([piece async for piece in entered.output(container_id, stream, offset)])
