"""The command ``check``. What it runs is imported when it runs: the daemon starts without it."""

import argparse
from pathlib import Path

_CHECK = """\
Try the adapter's settings out: log in as pods would, and look at everything that a pod needs there. Says what was
found, what it means and how to mend it. Nothing is left behind, and no job is submitted unless --run-job asks for it.

  multicri-proxy check --config /etc/multicri-proxy/config.yaml           every profile, every account in it
  multicri-proxy check --config ... hpc --namespace physics               as the pods of one namespace
  CLUSTER_HOST=login.hpc.example.org CLUSTER_USERNAME=alice CLUSTER_PASSWORD=... multicri-proxy check default
                                                                          as a pod with these variables

Exit status: 0 if pods can run, 1 if something is bad, 2 if the settings are wrong.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    check.add_argument("--run-job", action="store_true", help="also try a compute node out, with a small job")
    check.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from multicri_proxy.check.run import run  # noqa: PLC0415

    return run(arguments.config, profile=arguments.profile, namespace=arguments.namespace, run_job=arguments.run_job)
