"""What every group of CRI calls stands on."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from multicri_proxy.api.adapter import Adapter
from multicri_proxy.api.counts import ImageCounts
from multicri_proxy.api.image import ImagePool
from multicri_proxy.network.pod_network import PodNetwork
from multicri_proxy.runtime.events import Events
from multicri_proxy.runtime.follow import ContainerLog
from multicri_proxy.runtime.lifecycle import Lifecycle
from multicri_proxy.runtime.pods import Pods
from multicri_proxy.runtime.records import Container, Sandbox
from multicri_proxy.streaming.server import StreamingServer


class NameLocks:
    """One lock for each name that somebody holds or waits for."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[object, ...], asyncio.Lock] = WeakValueDictionary()

    def of(self, *name: object) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock


@dataclass(slots=True, kw_only=True)
class Parts:
    """What the calls are made of.

    directory: where the records are. handlers: the RuntimeClass handlers that stand for the adapter.
    is_alone: no other runtime takes what the handlers do not name.
    log_of: makes a new container's log. streaming: where clients of exec, attach and port-forward come.
    network: of pods that have one of their own. creating: containers under way, by the ids of their images.
    images_changed: set when there may be one too many. counts: of images.
    """

    adapter: Adapter
    images: ImagePool
    pods: Pods
    lifecycle: Lifecycle
    events: Events
    directory: Path
    handlers: tuple[str, ...]
    is_alone: bool
    pod_ip: str
    now_ns: Callable[[], int]
    log_of: Callable[[Container, Sandbox], ContainerLog | None]
    streaming: StreamingServer
    network: PodNetwork
    counts: ImageCounts
    names: NameLocks = field(default_factory=NameLocks)
    creating: Counter[str] = field(default_factory=Counter)
    images_changed: asyncio.Event = field(default_factory=asyncio.Event)


class Calls:
    """A group of CRI methods, in snake case, from request message to response message."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
