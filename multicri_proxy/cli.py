"""The command line."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from multicri_proxy import __version__
from multicri_proxy.api.errors import MulticriError
from multicri_proxy.check import add_check
from multicri_proxy.dump import commands as dump_commands
from multicri_proxy.jobs import commands as jobs_commands
from multicri_proxy.settings import FLAGS, Settings, load
from multicri_proxy.tuning import tune

_USAGE_ERROR, _FAILED = 2, 1

_SERVE = """\
Serve the kubelet on a unix socket until SIGTERM. Every call is passed on unchanged to the container runtime,
except for pods whose RuntimeClass handler is 'multicri', and images that begin with 'multicri/': the adapter has those.

Each setting may be given as a flag, as an environment variable MULTICRI_<NAME>, or in the YAML file as
<name>: value. A flag wins over the environment, the environment over the file. SIGHUP reads
the file again: log_level and what begins with dump change at once, everything else when the daemon is started again.
The adapter has a section of its own in the file, named after it (slurm: ...), whose settings are CRI_SLURM_<NAME>
in the environment:
CRI_SLURM_MOUNT_PATH, CRI_SLURM_IMAGE_REMOTE_MOUNT, CRI_SLURM_BUILD_IN_CLUSTER, ...
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the process's exit status: 0, 1 if it failed, 2 if it was asked wrongly."""
    parser = argparse.ArgumentParser(
        prog="multicri-proxy",
        description="A transparent CRI proxy that runs chosen pods as Slurm jobs.",
    )
    parser.add_argument("--version", action="version", version=f"multicri-proxy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve the kubelet on a unix socket",
        description=_SERVE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    serve.add_argument("--config", metavar="FILE", type=Path, help="YAML file with settings")
    for name in FLAGS:
        _add_flag(serve, name)
    serve.set_defaults(run=_serve)
    dump_commands.add_commands(commands)
    jobs_commands.add_commands(commands)
    add_check(commands)
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status


def _add_flag(parser: argparse.ArgumentParser, name: str) -> None:
    field = Settings.model_fields[name]
    default = field.default
    if isinstance(default, dict):
        default = ",".join(f"{key}:{value}" for key, value in default.items())
    if isinstance(default, tuple):
        default = ",".join(default)
    shown = f" (default: {str(default).lower() if isinstance(default, bool) else default})" if default != "" else ""
    flag = f"--{name.replace('_', '-')}"
    help_text = f"{field.description}{shown}"
    if field.annotation is bool:
        # as Go's flags have it: --flag alone is true, a value follows =
        parser.add_argument(flag, dest=name, nargs="?", const="true", metavar="true|false", help=help_text)
    else:
        parser.add_argument(flag, dest=name, metavar="VALUE", help=help_text)


def _serve(arguments: argparse.Namespace) -> int:
    flags = {name: value for name in FLAGS if (value := getattr(arguments, name)) is not None}
    read = partial(load, flags=flags, environment=dict(os.environ), file=arguments.config)
    try:
        settings = read()
    except MulticriError as error:
        print(f"multicri-proxy: {error}", file=sys.stderr)
        return _USAGE_ERROR
    # what serving needs takes a quarter of a second to import; --help and a wrong setting do not
    tune()
    from multicri_proxy.app import serve  # noqa: PLC0415

    try:
        serve(settings, read)
    except MulticriError as error:
        print(f"multicri-proxy: {error}", file=sys.stderr)
        return _FAILED
    return 0
