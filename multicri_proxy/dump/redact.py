"""Takes secrets out of what is dumped. Walks the fields that may hold one, found by the messages' descriptors.

Taken out: registry credentials (AuthConfig), values of environment variables whose names say so, the copy of a pod's
manifest that kubectl leaves in an annotation, the tokens in the URLs of Exec, Attach and PortForward, and all of these
in the JSON of verbose answers. A message that cannot be decoded is withheld, for nobody knows what is in it.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.calls import Metadata
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.entry import Entry

REDACTED = "[redacted]"

DEFAULT_NAMES = "PASS|SECRET|TOKEN|KEY|CREDENTIAL|AUTH|COOKIE"
"""Regular expression for names of secret variables, found anywhere in a name, in either case."""

_CLUSTER_PREFIX = "CLUSTER_"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_URL_MESSAGES = frozenset(
    {cri.ExecResponse.DESCRIPTOR, cri.AttachResponse.DESCRIPTOR, cri.PortForwardResponse.DESCRIPTOR}
)
_SECRET_HEADERS = re.compile("authorization|cookie", re.IGNORECASE)
_NOT_NAMES = frozenset({"key", "keys"})
_DEEPEST_JSON = 100

_Descriptor = Any
"""Of a message or a field; protobuf has one kind in Python and one in C."""

_Scrub = Callable[[Message], bool]
"""Changes one field of a message; says whether it has."""


def names_pattern(names: str) -> re.Pattern[str]:
    """Raises InvalidArgument if it is no regular expression."""
    try:
        return re.compile(names, re.IGNORECASE)
    except re.error as error:
        raise InvalidArgument(f"{names!r} is no regular expression: {error}") from error


class Redactor:
    """names: regular expression for the names of secret variables. Raises InvalidArgument if it is none."""

    def __init__(self, names: str = DEFAULT_NAMES) -> None:
        self._names = names_pattern(names)
        self._plans: dict[str, tuple[_Scrub, ...]] = {}
        for descriptor in cri.DESCRIPTOR.message_types_by_name.values():  # now, for several threads use them later
            self._plan(descriptor)

    def entry(self, entry: Entry) -> Entry:
        """The same without secrets. Messages without any keep their exact bytes."""
        record = entry.record
        request, request_bytes = self._message(entry.request, record.request)
        changed_request, changed_bytes = self._message(entry.changed_request, record.changed_request)
        reply, reply_bytes = self._message(entry.reply, record.reply)
        return Entry(
            record=replace(
                record,
                redacted=True,
                request=request_bytes,
                changed_request=changed_bytes,
                reply=reply_bytes,
                metadata=self._metadata(record.metadata),
                trailing_metadata=self._metadata(record.trailing_metadata),
            ),
            request=request,
            changed_request=changed_request,
            reply=reply,
        )

    def _message(self, message: Message | None, data: bytes | None) -> tuple[Message | None, bytes | None]:
        if message is None:
            return None, None
        if self._plan(message.DESCRIPTOR):
            clean = type(message)()
            clean.CopyFrom(message)
            if self._scrub(clean):
                return clean, clean.SerializeToString()
        return message, data

    def _metadata(self, metadata: Metadata) -> Metadata:
        return tuple(
            (key, REDACTED if self._is_secret(key) or _SECRET_HEADERS.search(key) else value) for key, value in metadata
        )

    def _is_secret(self, name: str) -> bool:
        return name.startswith(_CLUSTER_PREFIX) or bool(self._names.search(name))

    def _scrub(self, message: Message) -> bool:
        changes = [scrub(message) for scrub in self._plan(message.DESCRIPTOR)]
        return any(changes)

    def _plan(self, descriptor: _Descriptor) -> tuple[_Scrub, ...]:
        """What to do with messages of a type; empty if they cannot hold a secret."""
        plan = self._plans.get(descriptor.full_name)
        if plan is None:
            self._plans[descriptor.full_name] = ()  # a type within itself; CRI has none
            plan = self._plans[descriptor.full_name] = tuple(self._scrubs(descriptor))
        return plan

    def _scrubs(self, descriptor: _Descriptor) -> list[_Scrub]:
        if descriptor is cri.AuthConfig.DESCRIPTOR:
            return [_scrub_auth]
        if descriptor is cri.KeyValue.DESCRIPTOR:
            return [self._scrub_variable]
        if descriptor in _URL_MESSAGES:
            return [_scrub_url]
        scrubs: list[_Scrub] = []
        for field in descriptor.fields:
            if field.message_type is None:
                continue
            if field.message_type.GetOptions().map_entry:
                if field.name == "annotations":
                    scrubs.append(_scrub_annotations)
                elif field.name == "info":
                    scrubs.append(self._scrub_info)
            elif self._plan(field.message_type):
                scrubs.append(self._inside(field))
        return scrubs

    def _inside(self, field: _Descriptor) -> _Scrub:
        name = field.name
        if field.is_repeated:
            # a list, for any() would stop at the first item that held a secret
            return lambda message: any(list(map(self._scrub, getattr(message, name))))
        return lambda message: message.HasField(name) and self._scrub(getattr(message, name))

    def _scrub_variable(self, variable: Any) -> bool:
        if not self._is_secret(variable.key):
            return False
        variable.value = REDACTED.encode()
        return True

    def _scrub_info(self, message: Any) -> bool:
        """Verbose answers: containerd and CRI-O put JSON here, with the whole configuration of a container."""
        changed = False
        for key, text in message.info.items():
            if (clean := self._json_text(text)) != text:
                message.info[key] = clean
                changed = True
        return changed

    def _json_text(self, text: str) -> str:
        if text.strip()[:1] not in tuple("{["):
            return REDACTED if _LAST_APPLIED in text or self._is_assignment(text) else text
        try:
            value = json.loads(text)
            clean = self._json(value, 0)
            return text if clean == value else json.dumps(clean)
        except (ValueError, RecursionError):
            return REDACTED

    def _json(self, value: Any, depth: int) -> Any:
        if depth > _DEEPEST_JSON:
            return REDACTED
        if isinstance(value, list):
            return [self._json(item, depth + 1) for item in value]
        if isinstance(value, str):
            return f"{value.partition('=')[0]}={REDACTED}" if self._is_assignment(value) else value
        if not isinstance(value, dict):
            return value
        name = value.get("key", value.get("name"))
        if isinstance(name, str) and "value" in value and self._is_secret(name):
            return {**value, "value": REDACTED}
        return {key: self._json_member(key, item, depth) for key, item in value.items()}

    def _json_member(self, key: str, value: Any, depth: int) -> Any:
        secret = key == _LAST_APPLIED or (key not in _NOT_NAMES and self._is_secret(key))
        return _blank(value) if secret else self._json(value, depth + 1)

    def _is_assignment(self, text: str) -> bool:
        """``NAME=value`` of a secret variable."""
        name, equals, _ = text.partition("=")
        return bool(equals) and name.replace("_", "a").isalnum() and self._is_secret(name)


def _blank(value: Any) -> Any:
    """Without any text: ``{"auth": {"username": …}}`` of a registry's configuration, ``"tokens": […]``."""
    if isinstance(value, dict):
        return {key: _blank(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_blank(item) for item in value]
    return REDACTED if isinstance(value, str) and value else value


def _scrub_auth(auth: Any) -> bool:
    changed = False
    for field, value in auth.ListFields():
        if value:
            setattr(auth, field.name, REDACTED)
            changed = True
    before = auth.ByteSize()
    auth.DiscardUnknownFields()  # a credential of next year's
    return changed or before != auth.ByteSize()


def _scrub_annotations(message: Any) -> bool:
    if _LAST_APPLIED not in message.annotations:
        return False
    message.annotations[_LAST_APPLIED] = REDACTED
    return True


def _scrub_url(message: Any) -> bool:
    """Whoever has the token may open the stream."""
    head, slash, token = message.url.rpartition("/")
    if not token:
        return False
    message.url = f"{head}{slash}{REDACTED}"
    return True
