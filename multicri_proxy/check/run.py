"""Runs an adapter's check and prints what it finds as a table."""

import asyncio
import os
import sys
from pathlib import Path

from multicri_proxy.api.check import Check, CheckRequest, Finding, Verdict
from multicri_proxy.api.errors import MulticriError
from multicri_proxy.checking import load
from multicri_proxy.plugins import plug_in, plug_ins
from multicri_proxy.settings import Settings

_USAGE_ERROR, _FAILED = 2, 1


def run(config: Path | None, *, profile: str | None, namespace: str | None, run_job: bool) -> int:
    """Check one profile, or all; as the pods of one namespace, or of all. Returns the process's exit status."""
    try:
        settings = load(flags={}, environment=dict(os.environ), file=config)
        check: Check = plug_in("checks", settings.adapter_name)
        return asyncio.run(_print(check, _request(settings, profile, namespace, run_job=run_job)))
    except MulticriError as error:
        print(f"multicri-proxy: {error}", file=sys.stderr)
        return _USAGE_ERROR


def _request(settings: Settings, profile: str | None, namespace: str | None, *, run_job: bool) -> CheckRequest:
    return CheckRequest(
        settings=settings.adapters.get(settings.adapter_name, {}),
        handlers=settings.handler,
        image_builders=plug_ins("image_builders"),
        profile=profile,
        namespace=namespace,
        environment=dict(os.environ),
        run_job=run_job,
    )


async def _print(check: Check, request: CheckRequest) -> int:
    of, bad = None, False
    async for finding in check(request):
        if finding.of != of:
            print(f"{'' if of is None else chr(10)}{finding.of}")
            of = finding.of
        print(_lines(finding), flush=True)
        bad = bad or finding.verdict is Verdict.BAD
    return _FAILED if bad else 0


def _lines(finding: Finding) -> str:
    """What a cluster says may hold anything: only what can be printed is."""
    line = f"  {finding.verdict.value:<9} {finding.what:<20} {finding.meaning}"
    lines = [line, f"{'':<33}mend: {finding.mend}"] if finding.mend else [line]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)
