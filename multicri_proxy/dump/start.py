"""``multicri-proxy serve --dump``: dumps from the daemon's start to its end."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

from multicri_proxy.dump.dumper import Dumper, Listener
from multicri_proxy.dump.format import Formatter
from multicri_proxy.dump.redact import Redactor
from multicri_proxy.dump.render import Render, json_render, yaml_render
from multicri_proxy.dump.rules import Rules
from multicri_proxy.dump.sinks import FileSink, Sink, StreamSink

Format = Literal["yaml", "json"]


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
    redactor: Redactor | None,
) -> AsyncIterator[None]:
    """Dump to stderr, to a file, or both, from entering to leaving; nothing at all without rules."""
    async with AsyncExitStack() as stack:
        sinks: list[tuple[str, Sink, bool]] = []
        if rules.rules and file:
            sinks.append((str(file), FileSink(file, max_bytes=max_bytes, files=files), False))
        if rules.rules and to_stderr:
            sinks.append(("stderr", StreamSink(sys.stderr.fileno(), owned=False), sys.stderr.isatty()))
        for name, sink, colour in sinks:
            formatter = Formatter(rules=rules, render=render_of(format, colour=colour), redactor=redactor)
            await stack.enter_async_context(dumper.listening(Listener(name, formatter, sink)))
        yield


def render_of(format: Format, *, colour: bool, metadata: bool = False) -> Render:  # noqa: A002
    if format == "json":
        return json_render(metadata=metadata)
    return yaml_render(colour=colour and "NO_COLOR" not in os.environ, metadata=metadata)
