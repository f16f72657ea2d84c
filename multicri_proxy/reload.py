"""What SIGHUP changes in a daemon that runs: how much it logs, and what it dumps. Other settings it names."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from multicri_proxy.api.errors import MulticriError, ResourceExhausted
from multicri_proxy.api.log import Log, set_level
from multicri_proxy.dump.dumper import Dumper
from multicri_proxy.dump.redact import names_pattern
from multicri_proxy.dump.rules import Rules
from multicri_proxy.dump.start import dumping
from multicri_proxy.settings import Settings

log = Log("reload")

_OF_DUMPS = frozenset(
    {
        *("dump", "dump_file", "dump_stderr", "dump_format", "dump_max_bytes", "dump_files"),
        *("dump_redact", "dump_redact_names"),
    }
)
RELOADED = _OF_DUMPS | {"log_level"}
"""Settings that SIGHUP changes."""


class Reloadable:
    """Everything that follows the settings while the daemon runs, from entering to leaving.

    Raises InvalidArgument, on entering, if a rule or a regular expression of the settings is wrong.
    """

    def __init__(self, settings: Settings, dumper: Dumper) -> None:
        self._settings = settings
        self._dumper = dumper
        self._dumps = AsyncExitStack()

    @property
    def redact_names(self) -> str:
        """Regular expression for names of secret variables, as it is in force."""
        return self._settings.dump_redact_names

    async def __aenter__(self) -> Self:
        names_pattern(self.redact_names)
        await self._dump(Rules.parse(self._settings.dump))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._dumps.aclose()

    async def reload(self, read: Callable[[], Settings]) -> None:
        """Take over what can change, and name what cannot. Settings that are wrong change nothing.

        read: reads all settings anew; may block.
        """
        try:
            fresh = await asyncio.to_thread(read)
            rules = Rules.parse(fresh.dump)
            names_pattern(fresh.dump_redact_names)
        except MulticriError as error:
            log.warning("settings not reloaded: nothing is changed", error=error)
            return
        before, changed = self._settings, _changed(self._settings, fresh)
        self._settings = replace(before, **{name: getattr(fresh, name) for name in RELOADED})
        set_level(fresh.log_level)
        if changed & _OF_DUMPS:
            # one after the other: both may have the same file
            await self._dumps.aclose()
            try:
                await self._dump(rules)
            except ResourceExhausted as error:
                log.warning("nothing is dumped to where the settings say", error=error)
        log.info("settings reloaded", changed=_listed(changed & RELOADED) or "nothing")
        if later := _listed(changed - RELOADED):
            log.warning("these settings change when the daemon is started again", settings=later)

    async def _dump(self, rules: Rules) -> None:
        settings = self._settings
        await self._dumps.enter_async_context(
            dumping(
                self._dumper,
                rules=rules,
                file=Path(settings.dump_file) if settings.dump_file else None,
                to_stderr=settings.dump_stderr or not settings.dump_file,
                format=settings.dump_format,
                max_bytes=settings.dump_max_bytes,
                files=settings.dump_files,
                redact_names=self.redact_names if settings.dump_redact else None,
            )
        )


def _changed(before: Settings, after: Settings) -> set[str]:
    """Names of settings, and of adapters whose sections differ."""
    changed = {one.name for one in fields(before) if getattr(after, one.name) != getattr(before, one.name)}
    if "adapters" in changed:
        names = before.adapters.keys() | after.adapters.keys()
        changed |= {name for name in names if before.adapters.get(name) != after.adapters.get(name)}
    return changed - {"adapters"}


def _listed(names: set[str]) -> str:
    return ",".join(sorted(names))
