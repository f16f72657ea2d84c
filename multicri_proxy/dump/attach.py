"""The daemon's end of ``multicri-proxy dump``: a client of the admin socket that listens until it leaves."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multicri_proxy.admin import Command, Connection
from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.calls import Call, CallFailed, Runtime
from multicri_proxy.dump.child import FormatterProcess, Recipe
from multicri_proxy.dump.dumper import Dumper, Listener
from multicri_proxy.dump.format import learnable
from multicri_proxy.dump.rules import Rules
from multicri_proxy.dump.sinks import StreamSink
from multicri_proxy.dump.subject import Wanted

_LISTS = ("/runtime.v1.RuntimeService/ListPodSandbox", "/runtime.v1.RuntimeService/ListContainers")
_LISTS_S = 2.0

_Text = Field(max_length=4096)


class DumpRequest(BaseModel):
    """What a client asks for. pods, containers: names or ids; empty: all."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    command: str = "dump"
    rules: str = _Text
    pods: list[str] = Field(default=[], max_length=100)
    containers: list[str] = Field(default=[], max_length=100)
    redact: bool = True
    metadata: bool = False


def dump_command(dumper: Dumper, runtime: Runtime, redact_names: Callable[[], str]) -> Command:
    """The admin command ``dump``.

    runtime: asked once for the names of what runs, if the client wants certain pods or containers.
    redact_names: gives the regular expression for names of secret variables that is in force.
    """

    async def dump(fields: Mapping[str, Any], client: Connection) -> None:
        request = _parsed(fields)
        wanted = Wanted(pods=tuple(request.pods), containers=tuple(request.containers))
        recipe = Recipe(
            rules=Rules.parse(request.rules),
            redact_names=redact_names() if request.redact else None,
            wanted=wanted,
            format="json",
            metadata=request.metadata,
            decoded=False,
        )
        formatter = FormatterProcess(recipe)
        if wanted:
            await _learn_names(formatter, runtime)
        listener = Listener("an admin client", formatter, StreamSink(client.descriptor(), owned=True), may_leave=True)
        async with dumper.listening(listener):
            client.accept()
            await client.until_left()

    return dump


def _parsed(fields: Mapping[str, Any]) -> DumpRequest:
    try:
        return DumpRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(f"dump: {where}: {first['msg']}") from error


async def _learn_names(formatter: FormatterProcess, runtime: Runtime) -> None:
    """As far as the runtime tells; the kubelet's own lists tell the rest."""
    for path in _LISTS:
        call = Call(path=path, request=b"", timeout_s=_LISTS_S)
        try:
            async with asyncio.timeout(_LISTS_S):
                reply = await runtime.call(call)
        except (CallFailed, TimeoutError):
            continue
        await asyncio.to_thread(formatter.learn, learnable(call, reply.message))
