"""What an adapter does for its pods, and what it is given to do it with.

CRI is large, an adapter is small: sandboxes, states, timestamps, filters, log files and idempotency are
`multicri_proxy.runtime`'s. An adapter says how to stage, start, watch, signal, read and clean up.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

from multicri_proxy.api.counts import ImageCounts
from multicri_proxy.api.ids import ContainerId, PodSandboxId
from multicri_proxy.api.image import Image, ImageBuilder, ImagePool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the kubelet made of a container's requests and limits. None: not set.

    cpu_millicores: the limit. cpu_request_millicores: the request. memory_bytes: the limit.
    oom_score_adj: which process of the node ends first if its memory runs out, -1000 to 1000.
    """

    cpu_millicores: int | None = None
    cpu_request_millicores: int | None = None
    memory_bytes: int | None = None
    oom_score_adj: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dns:
    """Lines of a resolv.conf, without their first words. All empty: as the node has it."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """The pod that a container belongs to, as its sandbox's configuration names it.

    resources: what the kubelet says that all of its containers need at a time, init containers included.
    cgroup_parent: the control group that the kubelet made for it on the node: a path, or the name of a systemd slice.
    hostname: empty for the node's. network_namespace: the path of its own; empty for the node's. sysctls: by name.
    """

    sandbox_id: PodSandboxId
    name: str
    namespace: str
    uid: str
    attempt: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    runtime_handler: str = ""
    resources: Resources = Resources()
    cgroup_parent: str = ""
    hostname: str = ""
    dns: Dns = Dns()
    network_namespace: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A path of the node that the pod wants to see inside of the container."""

    container_path: str
    host_path: str
    readonly: bool


@dataclass(frozen=True, slots=True)
class Demand:
    """What not every adapter can give. field: as in `multicri_proxy.api.support.Fields`. value: what of it is asked."""

    field: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.field.partition('.')[2]}{': ' if self.value else ''}{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityContext:
    """Who a container is to be, and what of the node it wants or wants kept from it. None and empty: not set.

    user, group: numbers inside of the container. user_name: to be found in the image, if there is no number.
    masked_paths, readonly_paths: below /proc and /sys. node_ipc: it shares the node's IPC namespace.
    demands: whatever else changes what it may do; defaults of the kubelet are left out.
    """

    user: int | None = None
    user_name: str = ""
    group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    readonly_rootfs: bool = False
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    node_ipc: bool = False
    demands: tuple[Demand, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything that a container was asked to be. All of its text is the pod author's: not trusted.

    command: replaces the image's entrypoint, if not empty.
    args: replaces the image's default arguments, if not empty.
    env: in the pod's order; a later one of the same name wins.
    working_dir: empty for the image's own.
    stdin, tty: whether somebody may attach to its input, and whether it wants a terminal.
    stdin_once: whether its input ends with the first one who does.
    stop_signal: what asks it to end, as CRI names it, ``SIGUSR1``; empty for what its image says, or SIGTERM.
    """

    id: ContainerId
    pod: Pod
    name: str
    attempt: int
    image: Image
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[tuple[str, bytes], ...]
    working_dir: str
    mounts: tuple[Mount, ...]
    resources: Resources = Resources()
    security: SecurityContext = SecurityContext()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    stop_signal: str = ""


class Phase(Enum):
    """How far a started container is. CRI calls the first two RUNNING."""

    QUEUED = "queued"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an adapter knows of a started container now.

    started_at_ns, finished_at_ns: Unix time; None if unknown or not yet.
    exit_code: 128 + n for signal n; meaningful once EXITED.
    reason: one CamelCase word, as in ``kubectl get pod``. message: a sentence for a human.
    """

    container_id: ContainerId
    phase: Phase
    started_at_ns: int | None = None
    finished_at_ns: int | None = None
    exit_code: int = 0
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a running container uses. Absent is not zero.

    measured_at_ns: Unix time. cpu_ns: time of one core, summed since its start; it never goes back.
    cpu_nano_cores: of late; 1e9 is one core. memory_bytes: what it holds now and cannot be made to give back.
    resident_bytes: of memory, what is its processes' own.
    """

    measured_at_ns: int
    cpu_ns: int | None = None
    cpu_nano_cores: int | None = None
    memory_bytes: int | None = None
    resident_bytes: int | None = None


class OutputStream(Enum):
    """The two streams of a container, by their names in CRI's log format."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Adapter(Protocol):
    """Runs containers somewhere. Entered once, before any other call; every call may come again after a crash."""

    @property
    def name(self) -> str:
        """The adapter's name in ``--adapter-name``."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def adopt(self, known: Collection[ContainerId]) -> None:
        """Take up the work of the process before: called once, before every other call but ``watch``.

        known: each container that CRI still knows of. Whatever else the adapter remembers is left over from
        a creation or a removal that never ended, and is to be cleaned up in the background.
        """
        ...

    async def create_container(self, spec: ContainerSpec) -> None:
        """Check what is asked for, then stage it, so that ``start_container`` needs the id alone.

        Raises InvalidArgument before anything is touched. If it raises, nothing of the container is left.
        """
        ...

    async def start_container(self, container_id: ContainerId) -> None:
        """Have the container started exactly once; return as soon as that is certain.

        A second call, also after a crash, starts nothing more.
        """
        ...

    async def stop_container(self, container_id: ContainerId, grace_period_s: int) -> Report:
        """End a started container and return its last report, with phase EXITED.

        grace_period_s: time between SIGTERM and SIGKILL; 0 kills at once.
        """
        ...

    async def remove_container(self, container_id: ContainerId) -> None:
        """Stop what still runs and delete everything that the container left. One that is unknown is no error."""
        ...

    async def stop_sandbox(self, sandbox_id: PodSandboxId) -> None:
        """End what is held for a pod as a whole: no container of it will be started any more.

        One of which nothing is held is no error. Its containers that still run, if any, end with it.
        """
        ...

    def watch(self) -> AsyncIterator[Report]:
        """Reports as things change, without end. The same one may come twice; the last one counts."""
        ...

    def output(self, container_id: ContainerId, stream: OutputStream, offset_bytes: int) -> AsyncIterator[bytes]:
        """What the container wrote, from an offset on; ends when it has exited and everything was read.

        Raises Unavailable if the way there is cut: ask again, with the offset that was reached.
        """
        ...

    def usage(self, container_id: ContainerId) -> Usage | None:
        """What it used when that was measured last, from memory; None if it never was.

        Asking is what keeps it measured, in the background.
        """
        ...

    async def details(self, container_id: ContainerId) -> Mapping[str, str]:
        """Facts for a verbose ContainerStatus and for ``multicri-proxy jobs``, from memory.

        The latter has columns for job_id, job_state (the cluster's word), queue_reason, node_list and account.
        """
        ...


@runtime_checkable
class CanResize(Protocol):
    """An adapter that can change what a running container may use."""

    async def resize_container(self, container_id: ContainerId, resources: Resources) -> None:
        """resources: what is None stays as it is, 0 is no limit any more.

        Raises FailedPrecondition if it does not run, or cannot have that.
        """
        ...


@runtime_checkable
class JoinsPodNetwork(Protocol):
    """An adapter whose containers run in the pod's network namespace, if it has one: their ports are there already."""

    @property
    def joins_pod_network(self) -> Literal[True]: ...


class Store(Protocol):
    """A durable dictionary of an adapter's own. What `put` or `delete` has returned from survives a power cut."""

    async def put(self, key: str, value: bytes) -> None: ...

    async def delete(self, key: str) -> None: ...

    async def items(self) -> Sequence[tuple[str, bytes]]: ...


class Secrets(Protocol):
    """Encrypts what must not be read from the ledger's file."""

    def seal(self, plaintext: bytes, bound_to: str) -> bytes:
        """Encrypt; only `open` with the same ``bound_to`` gives it back."""
        ...

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """Raises FailedPrecondition if the key is another one or the text was changed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterContext:
    """What an adapter's factory is given.

    settings: the section of the configuration that has the adapter's name, not yet checked.
    handlers: the RuntimeClass handlers whose pods are the adapter's. images: those that its containers are made of.
    counts: where it counts what becomes of them.
    """

    settings: Mapping[str, object]
    store: Store
    secrets: Secrets
    images: ImagePool
    image_builders: Sequence[ImageBuilder]
    handlers: Sequence[str] = ("multicri",)
    counts: ImageCounts = field(default_factory=ImageCounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesContext:
    """What the pool's factory is given. settings: the section ``images`` of the configuration, not yet checked.

    counts: where it counts pulls.
    """

    settings: Mapping[str, object]
    store: Store
    secrets: Secrets
    image_builders: Sequence[ImageBuilder]
    counts: ImageCounts = field(default_factory=ImageCounts)


class ImagesFactory(Protocol):
    """A plug-in: the object that the entry point ``pool`` of the group ``multicri_proxy.images`` names."""

    def __call__(self, context: ImagesContext) -> AbstractAsyncContextManager[ImagePool]:
        """The pool with every image that the store remembers, from entering to leaving."""
        ...


class AdapterFactory(Protocol):
    """A plug-in: the object that an entry point of the group ``multicri_proxy.adapters`` names.

    It is imported, in a thread, with the first container that there is.
    """

    def __call__(self, context: AdapterContext) -> Adapter:
        """Raises InvalidArgument if a setting is wrong, naming it."""
        ...


class SettingsCheck(Protocol):
    """What checks an adapter's section before the daemon starts, in another process: it has the adapter's name in the
    group ``multicri_proxy.adapter_settings``. Its answer is not used.
    """

    def __call__(self, section: Mapping[str, object], handlers: Sequence[str], /) -> object:
        """Raises InvalidArgument if a setting is wrong, naming it."""
        ...
