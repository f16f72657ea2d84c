"""Which methods are dumped, and in what detail: CRI Resource Manager's rule language.

``level:pattern,…``: an omitted level is that of the pattern before, at the start ``full``. A pattern is a method's
name, ``*``, or a regular expression that matches anywhere in the name. A rule that names the method exactly wins at
once, else the last one that matches; a method that none matches is off.

Commas inside brackets belong to the pattern, which upstream's do not.
"""

import re
import warnings
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from multicri_proxy.api.errors import InvalidArgument

DEFAULT_RULES = "off:.*,short:((Create)|(Start)|(Run)|(Update)|(Stop)|(Remove)).*,off:.*Image.*"
"""CRI Resource Manager's own default."""


class Level(IntEnum):
    """How much of a call is written."""

    OFF = 0
    NAME = 1
    """Method, status, latency, owner."""
    FULL = 2
    """The messages too."""


_LEVELS = {
    "off": Level.OFF,
    "suppress": Level.OFF,
    "name": Level.NAME,
    "short": Level.NAME,
    "full": Level.FULL,
    "verbose": Level.FULL,
}
_LEVEL_PREFIX = re.compile(r"\s*(\w*)\s*:(.*)", re.DOTALL)
_REGEXP_CHARACTERS = frozenset(".*?+()[]|{}^$\\")
_LONGEST_RULES = 4096
_LONGEST_NAME = 256
_OPENING, _CLOSING = "({", ")}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """regexp: None if the pattern is a method's name or ``*``."""

    level: Level
    pattern: str
    regexp: re.Pattern[str] | None


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules in their order."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidArgument, which names the rule that is wrong. Empty text: everything is off."""
        if len(text) > _LONGEST_RULES:
            raise InvalidArgument(f"dump rules of {len(text)} characters are too long: {_LONGEST_RULES} are allowed")
        if not text.strip():
            return cls()
        rules: list[Rule] = []
        level = Level.FULL
        for item in _split(text):
            pattern = item
            if match := _LEVEL_PREFIX.fullmatch(item):
                level, pattern = _level(match[1], item), match[2]
            rules.append(_rule(level, pattern.strip(), item))
        return cls(tuple(rules))

    def level_of(self, method: str) -> Level:
        """method: its name, or its path on the wire."""
        name = method[-_LONGEST_NAME:].rpartition("/")[2]  # a client may make up any
        level = Level.OFF
        for rule in self.rules:
            if rule.pattern == name:
                return rule.level
            if rule.pattern == "*" or (rule.regexp and rule.regexp.search(name)):
                level = rule.level
        return level

    def __str__(self) -> str:
        return ",".join(f"{rule.level.name.lower()}:{rule.pattern}" for rule in self.rules)


def _level(name: str, item: str) -> Level:
    try:
        return _LEVELS[name.lower()]
    except KeyError:
        names = ", ".join(_LEVELS)
        raise InvalidArgument(f"dump rule {item!r}: {name!r} is no level; there are {names}") from None


def _rule(level: Level, pattern: str, item: str) -> Rule:
    if not pattern:
        raise InvalidArgument(f"dump rule {item!r}: no pattern; write level:pattern,pattern,…")
    if pattern == "*" or not _REGEXP_CHARACTERS.intersection(pattern):
        return Rule(level=level, pattern=pattern, regexp=None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of what it will read differently some day
            return Rule(level=level, pattern=pattern, regexp=re.compile(pattern))
    except (re.error, Warning, RecursionError, OverflowError) as error:
        raise InvalidArgument(f"dump rule {item!r}: {pattern!r} is no regular expression: {error}") from error


def _split(text: str) -> list[str]:
    """At commas outside of brackets; a backslash takes away the next character's meaning."""
    items, start, depth, in_class = [], 0, 0, False
    position = 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth = max(0, depth - 1)
        elif character == "," and not depth:
            items.append(text[start:position])
            start = position + 1
        position += 1
    return [*items, text[start:]]
