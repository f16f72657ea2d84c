"""``multicri-proxy serve --dump``: dumps from the daemon's start to its end."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from multicri_proxy.dump.child import FormatterProcess, Recipe
from multicri_proxy.dump.dumper import Dumper, Listener
from multicri_proxy.dump.render import Format
from multicri_proxy.dump.rules import Rules
from multicri_proxy.dump.sinks import FileSink, Sink, StreamSink


@asynccontextmanager
async def dumping(
    dumper: Dumper,
    *,
    rules: Rules,
    file: Path | None,
    to_stderr: bool,
    format: Format,  # noqa: A002  (the setting's name)
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
            formatter = FormatterProcess(Recipe(rules=rules, redact_names=redact_names, format=format, colour=colour))
            await stack.enter_async_context(dumper.listening(Listener(name, formatter, sink)))
        yield
