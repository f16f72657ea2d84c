"""Whose call is this? Decided from the request's bytes and what is known now, without asking anybody."""

from collections.abc import Callable
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


Decide = Callable[[bytes], Destination]
"""Where a call of one method goes, by its serialized request."""


class Router:
    """Routes calls between an adapter and any number of endpoints.

    handlers: the RuntimeClass handlers that stand for the adapter. endpoints: names, ``default`` among them
    or not: without it the adapter takes all that no other endpoint is named for.
    """

    def __init__(self, *, handlers: tuple[str, ...], endpoints: frozenset[str], ours: Ours) -> None:
        self.handlers = handlers
        self.endpoints = endpoints
        self._ours = ours
        self._adapter = ToAdapter()
        self._default: Destination = ToEndpoint(DEFAULT) if DEFAULT in endpoints else self._adapter
        self._must_ask = not endpoints <= {DEFAULT}

    def decider(self, method: Method) -> Decide:
        """What decides where a method's calls go, to be made once: it is asked for every call.

        A request that cannot be read goes to the default runtime, which says so.
        """
        decide = self._decider(method)

        def decide_or_default(request: bytes) -> Destination:
            try:
                return decide(request)
            except Malformed:
                return self._default

        return decide_or_default

    def _decider(self, method: Method) -> Decide:
        match method.whose:
            case Whose.DEFAULT:
                return lambda request: self._default
            case Whose.HANDLER:
                return lambda request: self._by_handler(text_at(request, method.key)) or self._default
            case Whose.SANDBOX:
                return lambda request: self._by_sandbox(text_at(request, method.key))
            case Whose.CONTAINER:
                return lambda request: self._by_container(text_at(request, method.key))
            case Whose.IMAGE:
                return lambda request: self._by_image(method, request, method.key)
            case Whose.EVERY:
                return lambda request: self._by_filter(method, request)

    def _by_handler(self, handler: str) -> Destination | None:
        if handler in self.handlers:
            return self._adapter
        if handler in self.endpoints:
            return ToEndpoint(handler)
        return None

    def _by_sandbox(self, sandbox_id: str) -> Destination:
        if self._ours.owns_sandbox(sandbox_id):
            return self._adapter
        return ToOwner(Whose.SANDBOX, sandbox_id) if self._must_ask else self._default

    def _by_container(self, container_id: str) -> Destination:
        if self._ours.owns_container(container_id):
            return self._adapter
        return ToOwner(Whose.CONTAINER, container_id) if self._must_ask else self._default

    def _by_image(self, method: Method, request: bytes, name: Path) -> Destination:
        handler = text_at(request, method.handler)
        if handler and (destination := self._by_handler(handler)):
            return destination
        return self._adapter if self._ours.owns_image(text_at(request, name)) else self._default

    def _by_filter(self, method: Method, request: bytes) -> Destination:
        if method.container and (container_id := text_at(request, method.container)):
            return self._by_container(container_id)
        if method.sandbox and (sandbox_id := text_at(request, method.sandbox)):
            return self._by_sandbox(sandbox_id)
        if method.image and text_at(request, method.image):
            return self._by_image(method, request, method.image)
        return ToEvery()
