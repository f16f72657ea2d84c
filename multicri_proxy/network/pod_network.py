"""The network of every pod that has one of its own: made, served, undone, also after a crash.

What is to be made is in the ledger before it is made, and leaves it after it is undone: a process that is killed at
any step leaves a row, by which the next one undoes it.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from multicri_proxy.api.adapter import Store
from multicri_proxy.api.errors import (
    FailedPrecondition,
    InvalidArgument,
    MulticriError,
    Unavailable,
)
from multicri_proxy.api.ids import PodSandboxId
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.network import cni, namespaces
from multicri_proxy.network.asked import Asked, HostPort, asked_of
from multicri_proxy.network.attachments import Attachment, attachment_from_row, attachment_row
from multicri_proxy.network.configuration import Network, read_network
from multicri_proxy.network.forwarding import Connect, Forwarder, Limits
from multicri_proxy.network.mounts import lead_out

log = Log("network")

DEFAULT_CONF_DIR = Path("/etc/cni/net.d")
DEFAULT_BIN_DIR = Path("/opt/cni/bin")

_NAMESPACES = Path("/run/netns")
_POD_CIDR = "pod-cidr"
"""Key of a row that is no sandbox's."""

_ARGUMENT = re.compile(r"[A-Za-z0-9._-]{1,253}")
_MOST_AT_ONCE = 8
_READING_S = 5.0
_RETRY_S = 10.0

Moved = Callable[[PodSandboxId, tuple[str, ...]], Awaitable[None]]
"""Told of the new IPs of a sandbox whose namespace was lost with the machine's last boot."""


@dataclass(slots=True, kw_only=True)
class _Entry:
    """lock: held by whoever makes or undoes it."""

    attachment: Attachment
    forwarder: Forwarder | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class PodNetwork:
    """Entered before the runtime's calls are served. With enabled=False it only undoes what was made before.

    store: a space of the ledger. conf_dir, bin_dir: CNI's. directory: where namespaces are mounted.
    """

    def __init__(
        self,
        store: Store,
        *,
        enabled: bool = False,
        conf_dir: Path = DEFAULT_CONF_DIR,
        bin_dir: Path = DEFAULT_BIN_DIR,
        directory: Path = _NAMESPACES,
        limits: Limits | None = None,
    ) -> None:
        self._store = store
        self._enabled = enabled
        self._conf_dir = conf_dir
        self._bin_dir = bin_dir
        self._directory = directory
        self._limits = limits or Limits()
        self._tasks = Tasks()
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)
        self._asking = asyncio.Semaphore(self._limits.asked)
        self._entries: dict[PodSandboxId, _Entry] = {}
        self._pod_cidr = ""
        self._connect: Connect | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for key, row in await self._store.items():
            if key == _POD_CIDR:
                self._pod_cidr = row.decode()
            else:
                attachment = attachment_from_row(row)
                self._entries[attachment.sandbox_id] = _Entry(attachment=attachment)
        if self._enabled and not await asyncio.to_thread(lead_out, self._directory):
            log.warning(
                "pods' network namespaces are this unit's alone, and end with it: "
                "set ProtectHome, ProtectSystem and PrivateTmp to no, or mount the directory with Bidirectional",
                directory=self._directory,
            )
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._tasks)
            stack.push_async_callback(self._close_ports)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Pods keep their namespaces and addresses; their ports are closed until the next start."""
        await self._stack.__aexit__(kind, error, traceback)

    def begin(self, ready: Collection[PodSandboxId], connect: Connect, moved: Moved) -> None:
        """Take up what the process before has left, in the background: ordinary pods wait for nothing here.

        ready: the sandboxes that are; the networks of others are undone. connect: reaches a pod's port.
        """
        self._connect = connect
        for sandbox_id, entry in list(self._entries.items()):
            if sandbox_id in ready:
                self._tasks.start(f"network of {sandbox_id}", partial(self._surely, self._take_up, entry, moved))
            elif entry.attachment.result is None:
                self._tasks.start(f"undo the network of {sandbox_id} twice", partial(self._undo_cut_off, entry))
            else:
                self._undo_later(sandbox_id)

    def wanted_by(self, config: cri.PodSandboxConfig) -> bool:
        """Whether this pod gets a network of its own: it is not the node's, and an admin wants it."""
        return self._enabled and config.linux.security_context.namespace_options.network == cri.POD

    async def problem(self) -> str:
        """Why no pod can be given a network now; empty if nothing is known to be in the way."""
        try:
            if self._enabled:
                await self._network()
        except MulticriError as error:
            return str(error)
        return ""

    def take_pod_cidr(self, cidr: str) -> None:
        """From where pods' addresses are to be taken, for plug-ins that want to be told. Kept in the background."""
        try:
            _ranges(cidr)
        except ValueError as error:
            log.warning("the pod CIDR cannot be read, and is not used", error=error)
            return
        if cidr and cidr != self._pod_cidr:
            self._pod_cidr = cidr
            self._tasks.start("keep the pod CIDR", partial(self._store.put, _POD_CIDR, cidr.encode()))

    def namespace_of(self, sandbox_id: PodSandboxId) -> str:
        """Where a sandbox's own namespace is mounted; empty if it has none."""
        entry = self._entries.get(sandbox_id)
        return str(entry.attachment.netns) if entry and entry.attachment.result is not None else ""

    async def attach(
        self, sandbox_id: PodSandboxId, config: cri.PodSandboxConfig, *, joins: bool = False
    ) -> tuple[str, ...]:
        """Make a sandbox's network; return its IPs. One that fails leaves nothing behind, later if not at once.

        joins: its containers will run in it, and nothing has to lead its ports elsewhere.
        Raises InvalidArgument for what the pod asks, FailedPrecondition for a port that is taken, Unavailable.
        """
        asked, args = asked_of(config, joins=joins), _args(sandbox_id, config)
        network = await self._network()
        if asked.host_ports and not network.can("portMappings"):
            raise FailedPrecondition(
                f"hostPort {asked.host_ports[0].port}: the network {network.name} has no plug-in with the capability "
                "portMappings; add portmap to it"
            )
        attachment = Attachment(
            sandbox_id=sandbox_id,
            netns=self._directory / f"multicri-{sandbox_id}",
            bin_dir=self._bin_dir,
            network=network,
            args=args,
            capabilities=self._capabilities(asked),
            ports=asked.ports,
            host_ports=asked.host_ports,
        )
        self._check_host_ports(asked.host_ports)
        entry = self._entries[sandbox_id] = _Entry(attachment=attachment)
        try:
            async with entry.lock:
                return await self._make(entry)
        except MulticriError:
            try:
                await self.detach(sandbox_id)
            except MulticriError:
                self._undo_later(sandbox_id)
            raise
        except BaseException:  # its caller has gone
            self._undo_later(sandbox_id)
            raise

    async def detach(self, sandbox_id: PodSandboxId) -> None:
        """Undo a sandbox's network; one without is left alone. Raises Unavailable, and is then to be asked again."""
        entry = self._entries.get(sandbox_id)
        if entry is None:
            return
        async with entry.lock:
            if sandbox_id not in self._entries:
                return
            await self._undo(entry)
            await self._store.delete(sandbox_id)
            del self._entries[sandbox_id]

    async def _network(self) -> Network:
        try:
            async with asyncio.timeout(_READING_S):
                return await asyncio.to_thread(read_network, self._conf_dir)
        except TimeoutError as error:
            raise Unavailable(f"network_conf_dir: {self._conf_dir} was not read within {_READING_S:g} s") from error

    def _capabilities(self, asked: Asked) -> Mapping[str, Any]:
        """Source: CNI's conventions, "Dynamic Plugin specific fields"."""
        found: dict[str, Any] = {
            "portMappings": [
                {"hostPort": one.port, "containerPort": one.container_port, "protocol": one.protocol}
                | ({"hostIP": one.address} if one.address else {})
                for one in asked.host_ports
            ],
            "bandwidth": asked.bandwidth,
            "ipRanges": _ranges(self._pod_cidr),
        }
        return {name: value for name, value in found.items() if value}

    def _check_host_ports(self, wanted: Collection[HostPort]) -> None:
        """Raises FailedPrecondition. Of containerd's pods the scheduler knows, of the node's processes bind(2) does."""
        for one in wanted:
            for other in self._entries.values():
                if any(one.meets(taken) for taken in other.attachment.host_ports):
                    raise FailedPrecondition(f"hostPort {one.port} is that of sandbox {other.attachment.sandbox_id}")
            family = socket.AF_INET6 if ":" in one.address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM if one.protocol == "udp" else socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((one.address, one.port))
                except OSError as error:
                    raise FailedPrecondition(f"hostPort {one.port} cannot be had: {error.strerror}") from error

    async def _make(self, entry: _Entry) -> tuple[str, ...]:
        attachment = entry.attachment
        await self._store.put(attachment.sandbox_id, attachment_row(attachment))
        async with self._turns:
            await namespaces.make(attachment.netns)
            result = await cni.add(attachment)
        entry.attachment = replace(attachment, result=result)
        addresses = cni.addresses_of(result)
        await self._store.put(attachment.sandbox_id, attachment_row(entry.attachment))
        await self._open_ports(entry)
        return addresses

    async def _open_ports(self, entry: _Entry) -> None:
        attachment = entry.attachment
        if self._connect is None or not attachment.ports:
            return
        entry.forwarder = Forwarder(
            attachment.sandbox_id,
            await namespaces.bound(attachment.netns, attachment.ports),
            connect=self._connect,
            tasks=self._tasks,
            turns=self._asking,
            limits=self._limits,
        )

    async def _take_up(self, entry: _Entry, moved: Moved) -> None:
        """Open the ports of a sandbox that had its network before; after a boot of the machine make it anew."""
        attachment = entry.attachment
        async with entry.lock:
            if attachment.sandbox_id not in self._entries or entry.forwarder:
                return
            if attachment.result is not None and namespaces.is_there(attachment.netns):
                await self._open_ports(entry)
                return
            await cni.delete(attachment)
            await namespaces.drop(attachment.netns)
            entry.attachment = replace(attachment, result=None)
            addresses = await self._make(entry)
        log.info("a pod's network was made anew", sandbox_id=attachment.sandbox_id)
        await moved(attachment.sandbox_id, addresses)

    async def _undo(self, entry: _Entry) -> None:
        if entry.forwarder:
            await entry.forwarder.close()
            entry.forwarder = None
        async with self._turns:
            await cni.delete(entry.attachment)
            await namespaces.drop(entry.attachment.netns)

    async def _undo_cut_off(self, entry: _Entry) -> None:
        """Undo what a killed process was making: now, and once more when a plug-in that outlived it has ended."""
        await self._surely(self._undo, entry)
        entry.attachment = replace(entry.attachment, host_ports=())
        await asyncio.sleep(cni.PLUGIN_S)
        await self._surely(self.detach, entry.attachment.sandbox_id)

    def _undo_later(self, sandbox_id: PodSandboxId) -> None:
        self._tasks.start(f"undo the network of {sandbox_id}", partial(self._surely, self.detach, sandbox_id))

    async def _surely(self, step: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Try until it is done; what is in its way is said once."""
        is_said = False
        while True:
            try:
                return await step(*arguments)
            except MulticriError as error:
                if not is_said:
                    log.warning("a pod's network cannot be tidied up yet, trying again", error=error)
                is_said = True
            await asyncio.sleep(_RETRY_S)

    async def _close_ports(self) -> None:
        for entry in self._entries.values():
            if entry.forwarder:
                await entry.forwarder.close()


def _args(sandbox_id: PodSandboxId, config: cri.PodSandboxConfig) -> str:
    """CNI_ARGS as containerd has them. Raises InvalidArgument: a name with `;` or `=` would be more than a name."""
    metadata = config.metadata
    values = {
        "K8S_POD_NAMESPACE": ("namespace", metadata.namespace),
        "K8S_POD_NAME": ("name", metadata.name),
        "K8S_POD_INFRA_CONTAINER_ID": ("", sandbox_id),
        "K8S_POD_UID": ("uid", metadata.uid),
    }
    for name, value in values.values():
        if not _ARGUMENT.fullmatch(value):
            raise InvalidArgument(f"config.metadata.{name}: {value[:64]!r} has characters that a CNI plug-in misreads")
    return ";".join(["IgnoreUnknown=1", *(f"{name}={value}" for name, (_, value) in values.items())])


def _ranges(cidr: str) -> list[list[dict[str, str]]]:
    """``10.1.0.0/16,2001:db8::/64`` as CNI's ipRanges: a set for each. Raises ValueError."""
    return [[{"subnet": str(ip_network(one.strip()))}] for one in cidr.split(",") if one.strip()]
