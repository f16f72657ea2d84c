"""The command ``check``: tries the settings of the adapter out and prints a table."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from multicri_proxy.api.check import Check, CheckRequest, Finding, Verdict
from multicri_proxy.api.errors import MulticriError
from multicri_proxy.plugins import plug_in, plug_ins
from multicri_proxy.settings import Settings

_USAGE_ERROR, _FAILED = 2, 1

_CHECK = """\
Try the adapter's settings out: log in as pods would, and look at everything that a pod needs there. Says what was
found, what it means and how to mend it. Nothing is left behind, and no job is submitted.

  multicri-proxy check --config /etc/multicri-proxy/config.yaml           every profile, every account in it
  multicri-proxy check --config ... hpc --namespace physics               as the pods of one namespace
  CLUSTER_HOST=login.hpc.example.org CLUSTER_USERNAME=alice CLUSTER_PASSWORD=... multicri-proxy check default
                                                                          as a pod with these variables

Exit status: 0 if pods can run, 1 if something is bad, 2 if the settings are wrong.
"""


def add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register ``check`` with the command line; it sets ``run``."""
    check = commands.add_parser(
        "check",
        help="try the settings of the adapter out",
        description=_CHECK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    check.add_argument(
        "profile", nargs="?", metavar="PROFILE", help="which profile of the adapter's; all, if not given"
    )
    check.add_argument("--config", metavar="FILE", type=Path, help="YAML file with settings, as for serve")
    check.add_argument("--namespace", metavar="NAME", help="log in as a pod of this namespace would")
    check.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from multicri_proxy.checking import load  # noqa: PLC0415  (serve has this module too, and does without it)

    try:
        settings = load(flags={}, environment=dict(os.environ), file=arguments.config)
        check: Check = plug_in("checks", settings.adapter_name)
        return asyncio.run(_print(check, _request(settings, arguments)))
    except MulticriError as error:
        print(f"multicri-proxy: {error}", file=sys.stderr)
        return _USAGE_ERROR


def _request(settings: Settings, arguments: argparse.Namespace) -> CheckRequest:
    return CheckRequest(
        settings=settings.adapters.get(settings.adapter_name, {}),
        handlers=settings.handler,
        image_builders=plug_ins("image_builders"),
        profile=arguments.profile,
        namespace=arguments.namespace,
        environment=dict(os.environ),
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
