"""What ``dump``, ``dump show`` and ``replay`` do, to stdout."""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multicri_proxy.admin import ask
from multicri_proxy.api.errors import InvalidArgument, Unavailable
from multicri_proxy.dump.format import Formatter
from multicri_proxy.dump.read import DumpFiles
from multicri_proxy.dump.record import from_json_line
from multicri_proxy.dump.replay import Outcome, Replay, calls_in, summary, table
from multicri_proxy.remote import RemoteRuntime

_RETRY_S = 1.0


def attach(socket_path: Path, request: Mapping[str, Any], formatter: Formatter, *, for_s: float | None) -> None:
    """Show what a daemon sends. for_s: None follows it, through its restarts, until interrupted.

    Raises Unavailable if no daemon is there to begin with, and whatever `multicri_proxy.admin.ask` does.
    """
    connected_once = False
    while True:
        try:
            for line in ask(socket_path, request, for_s=for_s):
                connected_once = True
                if line:
                    _print(formatter.text(from_json_line(line)))
        except Unavailable:
            if not connected_once:
                raise
        if for_s is not None:
            return
        print("multicri-proxy: the daemon is gone, waiting for it", file=sys.stderr)
        time.sleep(_RETRY_S)


def show(paths: Sequence[Path], formatter: Formatter) -> None:
    """Show files. They are read twice where names must be known first."""
    files = DumpFiles(paths=paths)
    if formatter.is_selective:
        for record in files.records():
            formatter.learn(record)
    for record in files.records():
        _print(formatter.text(record))
    _complain(files)


def replay(paths: Sequence[Path], endpoint: str, *, compare: bool, timeout_s: float) -> int:
    """Returns the exit status: 1 if answers were compared and differ, else 0."""
    socket_path = endpoint.removeprefix("unix://") if endpoint.startswith("unix:///") else endpoint
    if not socket_path.startswith("/"):
        raise InvalidArgument(f"--endpoint {endpoint!r} is no unix:///path")
    files = DumpFiles(paths=paths)
    calls = calls_in(files.records())
    _complain(files)

    async def send() -> tuple[list[Outcome], dict[str, str]]:
        done: list[Outcome] = []
        async with RemoteRuntime("replay", socket_path) as runtime:
            replayed = Replay(runtime, timeout_s=timeout_s)
            async for outcome in replayed.outcomes(calls):
                _print("".join(f"{line}\n" for line in table([outcome], compare=compare)))
                done.append(outcome)
        return done, replayed.ids

    outcomes, ids = asyncio.run(send())
    print(summary(outcomes, ids, compare=compare))
    sent = [outcome for outcome in outcomes if not outcome.skipped]
    if sent and all(outcome.code == "UNAVAILABLE" for outcome in sent):
        raise Unavailable(f"no runtime answers on {socket_path}")
    return int(compare and any(outcome.differences for outcome in outcomes))


def _print(text: str | None) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def _complain(files: DumpFiles) -> None:
    if complaint := files.complaint():
        print(f"multicri-proxy: {complaint}", file=sys.stderr)
