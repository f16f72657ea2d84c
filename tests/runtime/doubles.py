"""An adapter and an image pool in memory, and a node to serve CRI on."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Container, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from multicri_proxy.api.adapter import Adapter, ContainerSpec, OutputStream, Phase, Report, Usage
from multicri_proxy.api.errors import FailedPrecondition, NotFound
from multicri_proxy.api.ids import ContainerId, ImageId, ImageRef, PodSandboxId
from multicri_proxy.api.image import BuildSource, Image, ImageFile, RegistryAuth, SignatureRule, Stored
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.ledger import Ledger
from multicri_proxy.network.pod_network import PodNetwork
from multicri_proxy.runtime.service import Runtime
from multicri_proxy.streaming.server import Limits, StreamingServer, Tls

IMAGE = "multicri/docker-repository.perl:5"
CHUNK_BYTES = 7


@dataclass
class Job:
    """A container as the cluster has it."""

    spec: ContainerSpec
    starts: int = 0
    report: Report | None = None
    usage: Usage | None = None
    output: dict[OutputStream, bytes] = field(default_factory=lambda: dict.fromkeys(OutputStream, b""))


class Cluster:
    """What goes on while no proxy runs, and what a test may do to it.

    failures: what a method of the adapter raises, by its name. gates: what it waits for, before it does anything.
    """

    def __init__(self) -> None:
        self.jobs: dict[ContainerId, Job] = {}
        self.calls: list[tuple[str, str]] = []
        self.failures: dict[str, list[Exception]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.changed = asyncio.Condition()
        self.changes = 0

    async def enter(self, method: str, container_id: str = "") -> None:
        self.calls.append((method, container_id))
        await self.change()
        if gate := self.gates.get(method):
            await gate.wait()
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    async def report(self, container_id: str, phase: Phase, **facts: object) -> None:
        report = Report(container_id=ContainerId(container_id), phase=phase, **facts)  # type: ignore[arg-type]
        self.jobs[report.container_id].report = report
        await self.change()

    async def write(self, container_id: str, stream: OutputStream, data: bytes) -> None:
        self.jobs[ContainerId(container_id)].output[stream] += data
        await self.change()

    async def called(self, method: str, times: int = 1) -> None:
        """Wait until the method was called so often."""
        async with self.changed:
            await self.changed.wait_for(lambda: [name for name, _ in self.calls].count(method) >= times)

    async def changed_since(self, seen: int) -> None:
        """Wait until there were more changes than that."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.changes != seen)

    async def change(self) -> None:
        async with self.changed:
            self.changes += 1
            self.changed.notify_all()


class MemoryAdapter:
    """An Adapter whose cluster is an object."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.closed = False

    @property
    def name(self) -> str:
        return "memory"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closed = True

    async def adopt(self, known: Collection[ContainerId]) -> None:
        await self._cluster.enter("adopt")
        for container_id in set(self._cluster.jobs) - set(known):
            del self._cluster.jobs[container_id]

    async def create_container(self, spec: ContainerSpec) -> None:
        await self._cluster.enter("create_container", spec.id)
        self._cluster.jobs[spec.id] = Job(spec)

    async def start_container(self, container_id: ContainerId) -> None:
        await self._cluster.enter("start_container", container_id)
        job = self._job(container_id)
        if job.report is None:
            job.starts += 1
            await self._cluster.report(container_id, Phase.QUEUED)

    async def stop_container(self, container_id: ContainerId, grace_period_s: int) -> Report:
        await self._cluster.enter("stop_container", container_id)
        job = self._job(container_id)
        if job.report is None or job.report.phase is not Phase.EXITED:
            exit_code = 143 if grace_period_s else 137
            await self._cluster.report(container_id, Phase.EXITED, exit_code=exit_code)
        assert job.report
        return job.report

    async def remove_container(self, container_id: ContainerId) -> None:
        await self._cluster.enter("remove_container", container_id)
        self._cluster.jobs.pop(container_id, None)
        await self._cluster.change()

    async def stop_sandbox(self, sandbox_id: PodSandboxId) -> None:
        await self._cluster.enter("stop_sandbox", sandbox_id)

    async def watch(self) -> AsyncIterator[Report]:
        await self._cluster.enter("watch")
        told: dict[ContainerId, Report] = {}
        while True:
            seen = self._cluster.changes
            for container_id, job in list(self._cluster.jobs.items()):
                if job.report and told.get(container_id) != job.report:
                    told[container_id] = job.report
                    yield job.report
            await self._cluster.changed_since(seen)

    async def output(self, container_id: ContainerId, stream: OutputStream, offset_bytes: int) -> AsyncIterator[bytes]:
        await self._cluster.enter("output", container_id)
        while True:
            seen, job = self._cluster.changes, self._job(container_id)
            while chunk := job.output[stream][offset_bytes : offset_bytes + CHUNK_BYTES]:
                yield chunk
                offset_bytes += len(chunk)
            if job.report and job.report.phase is Phase.EXITED:
                return
            await self._cluster.changed_since(seen)

    def usage(self, container_id: ContainerId) -> Usage | None:
        job = self._cluster.jobs.get(container_id)
        return job.usage if job else None

    async def details(self, container_id: ContainerId) -> Mapping[str, str]:
        await self._cluster.enter("details", container_id)
        return {"job": f"of {container_id}"}

    def _job(self, container_id: ContainerId) -> Job:
        if container_id not in self._cluster.jobs:
            raise NotFound(f"job of {container_id}")
        return self._cluster.jobs[container_id]


class MemoryImages:
    """An ImagePool in memory."""

    def __init__(self) -> None:
        self._images: dict[ImageId, Image] = {}

    def owns(self, name: str) -> bool:
        return name.startswith("multicri/") or name in self._images

    async def pull(
        self, name: ImageRef, *, auth: RegistryAuth | None = None, namespace: str = "", plain: bool = False
    ) -> Image:
        digest = hashlib.sha256(name.encode()).hexdigest()
        image = Image(id=ImageId(f"sha256:{digest}"), source=f"docker://{name}", names=(name,))
        self._images[image.id] = image
        return image

    def auth_in(self, docker_config: bytes, name: ImageRef) -> RegistryAuth | None:
        return None

    def find(self, name: str) -> Image | None:
        return next((image for image in self._images.values() if name in (image.id, *image.names)), None)

    def images(self) -> Sequence[Image]:
        return list(self._images.values())

    async def remove(self, name: str) -> Image | None:
        if image := self.find(name):
            del self._images[image.id]
        return image

    async def note_use(self, image_id: ImageId) -> None:
        """It removes nothing of its own accord."""

    def stored(self) -> Stored | None:
        return None

    async def surplus(self, in_use: Container[str], on_node: Mapping[ImageId, int]) -> Sequence[Image]:
        return ()

    async def build_source(self, image: Image, namespace: str) -> BuildSource:
        return BuildSource(uri=image.source)

    async def signature_rule(self, image: Image) -> SignatureRule | None:
        return None

    async def file_suffix(self, runtime: str) -> str:
        raise FailedPrecondition(f"nothing is built here for {runtime}")

    async def file(self, image: Image, namespace: str, runtime: str) -> ImageFile:
        raise FailedPrecondition(f"{image.source} is not built here for {runtime}")


class Node:
    """A directory with a ledger and logs, an adapter's cluster, and a runtime that may come and go."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cluster = Cluster()
        self.images = MemoryImages()
        self.now_ns = 1_000_000_000
        self.pauses: list[float] = []
        self.drain_timeout_s = 60.0
        self.make_adapter: Callable[[Cluster], Adapter] = MemoryAdapter
        self.limits = Limits()
        self.tls: Tls | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Runtime]:
        await self.images.pull(ImageRef(IMAGE))
        async with (
            Ledger.open(self.directory / "state" / "ledger.sqlite") as ledger,
            Runtime(
                adapter=self.make_adapter(self.cluster),
                images=self.images,
                ledger=ledger,
                directory=self.directory / "state",
                handlers=("multicri",),
                pod_ip="192.0.2.7",
                streaming=StreamingServer(port=0, tls=self.tls, limits=self.limits),
                network=self.network_of(ledger),
                drain_timeout_s=self.drain_timeout_s,
                now_ns=self._tick,
                pause=self._pause,
            ) as runtime,
        ):
            yield runtime

    def network_of(self, ledger: Ledger) -> PodNetwork:
        return PodNetwork(ledger.space("network"))

    def sandbox_config(self, name: str = "pod", attempt: int = 0) -> cri.PodSandboxConfig:
        return cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-of-{name}", namespace="default", attempt=attempt),
            log_directory=str(self.directory / "logs" / name),
            labels={"app": name},
            annotations={"note": "kept"},
            linux=cri.LinuxPodSandboxConfig(
                security_context=cri.LinuxSandboxSecurityContext(
                    namespace_options=cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER)
                )
            ),
        )

    def container_config(self, name: str = "main", attempt: int = 0) -> cri.ContainerConfig:
        return cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name, attempt=attempt),
            image=cri.ImageSpec(image=IMAGE, user_specified_image=IMAGE),
            command=["perl"],
            args=["-e", "print 1"],
            envs=[cri.KeyValue(key="TOKEN", value=b"a secret value"), cri.KeyValue(key="B", value=b"2")],
            mounts=[cri.Mount(container_path="/data", host_path="/srv/data", readonly=True)],
            labels={"tier": name},
            annotations={"hash": "abc"},
            log_path=f"{name}/{attempt}.log",
        )

    def log(self, name: str = "main", attempt: int = 0, pod: str = "pod") -> bytes:
        return (self.directory / "logs" / pod / name / f"{attempt}.log").read_bytes()

    def _tick(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


class Client:
    """Short ways to say what a kubelet says."""

    def __init__(self, node: Node, runtime: Runtime) -> None:
        self.node = node
        self.runtime = runtime

    async def sandbox(self, name: str = "pod", attempt: int = 0) -> str:
        request = cri.RunPodSandboxRequest(config=self.node.sandbox_config(name, attempt), runtime_handler="multicri")
        return (await self.runtime.run_pod_sandbox(request)).pod_sandbox_id

    async def container(self, sandbox_id: str, config: cri.ContainerConfig | None = None) -> str:
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config or self.node.container_config())
        return (await self.runtime.create_container(request)).container_id

    async def started(self, sandbox_id: str, name: str = "main") -> str:
        container_id = await self.container(sandbox_id, self.node.container_config(name))
        await self.start(container_id)
        return container_id

    async def start(self, container_id: str) -> None:
        await self.runtime.start_container(cri.StartContainerRequest(container_id=container_id))

    async def stop(self, container_id: str, timeout_s: int = 30) -> None:
        await self.runtime.stop_container(cri.StopContainerRequest(container_id=container_id, timeout=timeout_s))

    async def remove(self, container_id: str) -> None:
        await self.runtime.remove_container(cri.RemoveContainerRequest(container_id=container_id))

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self.runtime.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self.runtime.remove_pod_sandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))

    async def status(self, container_id: str) -> cri.ContainerStatus:
        request = cri.ContainerStatusRequest(container_id=container_id)
        return (await self.runtime.container_status(request)).status

    async def sandbox_status(self, sandbox_id: str) -> cri.PodSandboxStatus:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        return (await self.runtime.pod_sandbox_status(request)).status

    async def containers(self, wanted: cri.ContainerFilter | None = None) -> list[str]:
        request = cri.ListContainersRequest(filter=wanted)
        return [container.id for container in (await self.runtime.list_containers(request)).containers]

    async def sandboxes(self) -> list[str]:
        response = await self.runtime.list_pod_sandbox(cri.ListPodSandboxRequest())
        return [sandbox.id for sandbox in response.items]

    async def until_exited(self, container_id: str) -> cri.ContainerStatus:
        """Wait for the event, if it has not come yet."""
        async with aclosing(self.runtime.get_container_events(cri.GetEventsRequest())) as events:  # type: ignore[type-var]
            while (status := await self.status(container_id)).state != cri.CONTAINER_EXITED:
                await anext(events)
        return status
