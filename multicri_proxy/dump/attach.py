"""The daemon's end of ``multicri-proxy dump``: a client of the admin socket that listens until it leaves."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from multicri_proxy.admin import Command, Connection
from multicri_proxy.calls import Call, CallFailed, Runtime
from multicri_proxy.dump.dumper import Dumper, Listener
from multicri_proxy.dump.rules import Rules
from multicri_proxy.dump.sinks import StreamSink

if TYPE_CHECKING:
    from multicri_proxy.dump.child import FormatterProcess

_LISTS = ("/runtime.v1.RuntimeService/ListPodSandbox", "/runtime.v1.RuntimeService/ListContainers")
_LISTS_S = 2.0


def dump_command(dumper: Dumper, runtime: Runtime, redact_names: Callable[[], str]) -> Command:
    """The admin command ``dump``.

    runtime: asked once for the names of what runs, if the client wants certain pods or containers.
    redact_names: gives the regular expression for names of secret variables that is in force.
    """

    async def dump(fields: Mapping[str, Any], client: Connection) -> None:
        with closing(await asyncio.to_thread(_formatter, fields, redact_names())) as formatter:
            if formatter.wants_some:
                await _learn_names(formatter, runtime)
            sink = StreamSink(client.descriptor(), owned=True)
            async with dumper.listening(Listener("an admin client", formatter, sink, may_leave=True)):
                client.accept()
                await client.until_left()

    return dump


def _formatter(fields: Mapping[str, Any], redact_names: str) -> "FormatterProcess":
    """In a thread: what this imports takes its time, and a daemon that nobody listens to does without it.

    Raises InvalidArgument, naming the field that is wrong.
    """
    from multicri_proxy.dump.child import FormatterProcess, Recipe  # noqa: PLC0415
    from multicri_proxy.dump.request import parsed  # noqa: PLC0415
    from multicri_proxy.dump.subject import Wanted  # noqa: PLC0415

    request = parsed(fields)
    recipe = Recipe(
        rules=Rules.parse(request.rules),
        redact_names=redact_names if request.redact else None,
        wanted=Wanted(pods=tuple(request.pods), containers=tuple(request.containers)),
        format="json",
        metadata=request.metadata,
        decoded=False,
    )
    return FormatterProcess(recipe)


async def _learn_names(formatter: "FormatterProcess", runtime: Runtime) -> None:
    """As far as the runtime tells; the kubelet's own lists tell the rest."""
    for path in _LISTS:
        call = Call(path=path, request=b"", timeout_s=_LISTS_S)
        try:
            async with asyncio.timeout(_LISTS_S):
                reply = await runtime.call(call)
        except (CallFailed, TimeoutError):
            continue
        await asyncio.to_thread(formatter.learn_from, call, reply.message)
