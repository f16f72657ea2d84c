"""What becomes of a record on its way out: decoded, chosen, redacted, rendered. Used by one thread at a time."""

from dataclasses import replace

from multicri_proxy.calls import Call
from multicri_proxy.dump.entry import Entry, entry_of
from multicri_proxy.dump.record import Kind, Record
from multicri_proxy.dump.redact import Redactor
from multicri_proxy.dump.render import Render
from multicri_proxy.dump.rules import Level, Rules
from multicri_proxy.dump.subject import LEARNT_FROM, Names, Subject, Wanted, subject_of
from multicri_proxy.methods import METHODS, Whose

_LISTS = frozenset(path for path, method in METHODS.items() if method.whose is Whose.EVERY)


class Formatter:
    """Turns records into text. redactor: None shows everything."""

    def __init__(
        self, *, rules: Rules, render: Render, redactor: Redactor | None, wanted: Wanted | None = None
    ) -> None:
        self._rules = rules
        self._render = render
        self._redactor = redactor
        self._wanted = wanted or Wanted()
        self._names = Names()

    @property
    def is_selective(self) -> bool:
        """Does it choose by pod or container?"""
        return bool(self._wanted)

    def wants(self, path: str) -> bool:
        """Are a method's records of any use? Called by the loop's thread, as is `wants_messages`."""
        return self._learns_from(path) or self._rules.level_of(path) is not Level.OFF

    def wants_messages(self, path: str) -> bool:
        """And the messages in them? A list tells nothing about who is meant, and is long."""
        level = self._rules.level_of(path)
        return self._learns_from(path) or level is Level.FULL or (level is Level.NAME and path not in _LISTS)

    def text(self, record: Record) -> str | None:
        """None if nobody wants to see it."""
        if record.kind is Kind.DROPPED:
            return self._render(Entry(record=record))
        level = min(self._rules.level_of(record.path), record.level)
        if not self.wants_messages(record.path):
            record = replace(record, request=None, changed_request=None, reply=None)
        entry = entry_of(record)
        self._names.learn(entry)
        if level is Level.OFF:
            return None
        subject = subject_of(entry, self._names)
        if self.is_selective and not self._wanted.fits(subject):
            return None
        if self._redactor:
            entry = self._redactor.entry(entry)
        return self._render(_kept(entry, level, subject))

    def _learns_from(self, path: str) -> bool:
        return self.is_selective and path.rpartition("/")[2] in LEARNT_FROM

    def close(self) -> None:
        """It has nothing to give back."""

    def learn(self, record: Record) -> None:
        """Take in names without showing anything."""
        if record.method in LEARNT_FROM:
            self._names.learn(entry_of(record))


def learnable(call: Call, reply: bytes) -> Record:
    """A record to learn names from, of a call that nobody made."""
    return Record(kind=Kind.CALL, call_id="", path=call.path, time_ns=0, request=call.request, reply=reply)


def _kept(entry: Entry, level: Level, subject: Subject) -> Entry:
    record = replace(
        entry.record,
        level=level,
        pod=str(subject.pod) or entry.record.pod,
        container=subject.container or subject.container_id or entry.record.container,
    )
    if level is Level.NAME:
        return Entry(record=replace(record, request=None, changed_request=None, reply=None))
    return replace(entry, record=record)
