"""``multicri-proxy serve --dump``: dumps from the daemon's start to its end."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from multicri_proxy.dump.dumper import Dumper, Listener
from multicri_proxy.dump.rules import Rules
from multicri_proxy.dump.sinks import FileSink, Sink, StreamSink

if TYPE_CHECKING:
    from multicri_proxy.dump.child import FormatterProcess
    from multicri_proxy.dump.render import Format


@asynccontextmanager
async def dumping(
    dumper: Dumper,
    *,
    rules: Rules,
    file: Path | None,
    to_stderr: bool,
    format: "Format",  # noqa: A002  (the setting's name)
    max_bytes: int,
    files: int,
    redact_names: str | None,
) -> AsyncIterator[None]:
    """Dump to stderr, to a file, or both, from entering to leaving; nothing at all without rules.

    redact_names: regular expression for names of secret variables; None shows everything.
    """
    async with AsyncExitStack() as stack:
        sinks: list[tuple[str, Sink, bool]] = []
        if rules.rules and file:
            sinks.append((str(file), FileSink(file, max_bytes=max_bytes, files=files), False))
        if rules.rules and to_stderr:
            sinks.append(("stderr", StreamSink(sys.stderr.fileno(), owned=False), sys.stderr.isatty()))
        for name, sink, colour in sinks:
            formatter = await asyncio.to_thread(_formatter, rules, redact_names, format, colour)
            await stack.enter_async_context(dumper.listening(Listener(name, formatter, sink)))
        yield


def _formatter(rules: Rules, redact_names: str | None, format: "Format", colour: bool) -> "FormatterProcess":  # noqa: A002
    """In a thread: a daemon that dumps nothing does without what this imports."""
    from multicri_proxy.dump.child import FormatterProcess, Recipe  # noqa: PLC0415

    return FormatterProcess(Recipe(rules=rules, redact_names=redact_names, format=format, colour=colour))
