"""Names for the ids that runtimes make up, so that the calls of one run can be made, and compared, in another.

A name is as long as an id: it takes an id's place in serialized messages without decoding them.
"""

from dataclasses import dataclass, field, replace

from differential.calls import Seen, Sent
from multicri_proxy.wire import Malformed, text_at

ID_LENGTH = 64

_NAMED_BY = {"RunPodSandbox": "sandbox", "CreateContainer": "container"}
"""The calls whose answers hold a new id, in field 1."""


def name_of(kind: str, number: int) -> str:
    """The name of the id that the run's number-th RunPodSandbox, or CreateContainer, was answered with."""
    return f"{kind}-{number}-".ljust(ID_LENGTH, "~")


@dataclass
class Names:
    """The ids of one run by their names."""

    ids: dict[bytes, bytes] = field(default_factory=dict)

    def learn(self, sent: Sent, seen: Seen) -> None:
        """Name the id in this answer, if there is a new one. A call that fails uses up its number as well."""
        kind = _NAMED_BY.get(sent.method)
        if kind is None:
            return
        try:
            self.add(kind, text_at(seen.messages[0], (1,)) if seen.messages else "")
        except Malformed:
            self.add(kind, "")

    def add(self, kind: str, object_id: str) -> None:
        """Name this id; empty for a call that has made nothing."""
        number = sum(known.startswith(f"{kind}-".encode()) for known in self.ids)
        self.ids[name_of(kind, number).encode()] = object_id.encode()

    def to_ids(self, sent: Sent) -> Sent:
        """The call with this run's ids. A name that means nothing goes as it is, as an id that nobody has."""
        return replace(sent, request=self._with_ids(sent.request))

    def to_names(self, sent: Sent) -> Sent:
        return replace(sent, request=self.named(sent.request))

    def named(self, data: bytes) -> bytes:
        """Bytes with names for this run's ids."""
        for name, found in self.ids.items():
            if found:
                data = data.replace(found, name)
        return data

    def _with_ids(self, data: bytes) -> bytes:
        for name, found in self.ids.items():
            if found:
                data = data.replace(name, found)
        return data
