"""Whose call is this? Decided from the request's bytes and what is known now, without asking anybody."""

from dataclasses import dataclass
from typing import Protocol

from multicri_proxy.methods import Method, Path, Whose
from multicri_proxy.wire import Malformed, text_at


class Ours(Protocol):
    """Which objects are the adapter's. Each is a look-up in memory."""

    def owns_sandbox(self, sandbox_id: str) -> bool: ...

    def owns_container(self, container_id: str) -> bool: ...

    def owns_image(self, name: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class ToAdapter:
    """To the adapter in this process."""


@dataclass(frozen=True, slots=True)
class ToEndpoint:
    """To the runtime with this name."""

    name: str


@dataclass(frozen=True, slots=True)
class ToOwner:
    """To whichever endpoint has this sandbox or container, which is to be found out."""

    whose: Whose
    object_id: str


@dataclass(frozen=True, slots=True)
class ToEvery:
    """To every endpoint and the adapter."""


Destination = ToAdapter | ToEndpoint | ToOwner | ToEvery

DEFAULT = "default"
"""The endpoint that gets whatever belongs to nobody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """Routes calls between an adapter and any number of endpoints.

    handlers: the RuntimeClass handlers that stand for the adapter. endpoints: names, ``default`` among them
    or not: without it the adapter takes all that no other endpoint is named for.
    """

    handlers: tuple[str, ...]
    endpoints: frozenset[str]
    ours: Ours

    def destination(self, method: Method, request: bytes) -> Destination:
        """Where a call goes. A request that cannot be read goes to the default runtime, which says so."""
        try:
            return self._destination(method, request)
        except Malformed:
            return self._default()

    def _destination(self, method: Method, request: bytes) -> Destination:
        match method.whose:
            case Whose.DEFAULT:
                return self._default()
            case Whose.HANDLER:
                return self._by_handler(text_at(request, method.key)) or self._default()
            case Whose.SANDBOX | Whose.CONTAINER as kind:
                return self._by_id(kind, text_at(request, method.key))
            case Whose.IMAGE:
                return self._by_image(method, request, method.key)
            case Whose.EVERY:
                return self._by_filter(method, request)

    def _default(self) -> Destination:
        return ToEndpoint(DEFAULT) if DEFAULT in self.endpoints else ToAdapter()

    def _by_handler(self, handler: str) -> Destination | None:
        if handler in self.handlers:
            return ToAdapter()
        if handler in self.endpoints:
            return ToEndpoint(handler)
        return None

    def _by_id(self, kind: Whose, object_id: str) -> Destination:
        owns = self.ours.owns_sandbox if kind is Whose.SANDBOX else self.ours.owns_container
        if owns(object_id):
            return ToAdapter()
        if self.endpoints <= {DEFAULT}:
            return self._default()
        return ToOwner(kind, object_id)

    def _by_image(self, method: Method, request: bytes, name: Path) -> Destination:
        handler = text_at(request, method.handler)
        if handler and (destination := self._by_handler(handler)):
            return destination
        return ToAdapter() if self.ours.owns_image(text_at(request, name)) else self._default()

    def _by_filter(self, method: Method, request: bytes) -> Destination:
        if method.container and (container_id := text_at(request, method.container)):
            return self._by_id(Whose.CONTAINER, container_id)
        if method.sandbox and (sandbox_id := text_at(request, method.sandbox)):
            return self._by_id(Whose.SANDBOX, sandbox_id)
        if method.image and text_at(request, method.image):
            return self._by_image(method, request, method.image)
        return ToEvery()
