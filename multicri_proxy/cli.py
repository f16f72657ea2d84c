"""The command line."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from multicri_proxy import __version__
from multicri_proxy.api.errors import MulticriError
from multicri_proxy.check import commands as check_commands
from multicri_proxy.dump import commands as dump_commands
from multicri_proxy.images import commands as images_commands
from multicri_proxy.jobs import commands as jobs_commands
from multicri_proxy.reading import Reading
from multicri_proxy.settings import FLAGS, Flag
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
    for flag in FLAGS:
        _add_flag(serve, flag)
    serve.set_defaults(run=_serve)
    dump_commands.add_commands(commands)
    jobs_commands.add_commands(commands)
    images_commands.add_commands(commands)
    check_commands.add_commands(commands)
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status


def _add_flag(parser: argparse.ArgumentParser, flag: Flag) -> None:
    default = flag.default
    if isinstance(default, dict):
        default = ",".join(f"{key}:{value}" for key, value in default.items())
    if isinstance(default, tuple):
        default = ",".join(default)
    shown = f" (default: {str(default).lower() if flag.is_switch else default})" if default != "" else ""
    option, help_text = f"--{flag.name.replace('_', '-')}", f"{flag.about}{shown}"
    if flag.is_switch:
        # as Go's flags have it: --flag alone is true, a value follows =
        parser.add_argument(option, dest=flag.name, nargs="?", const="true", metavar="true|false", help=help_text)
    else:
        parser.add_argument(option, dest=flag.name, metavar="VALUE", help=help_text)


def _serve(arguments: argparse.Namespace) -> int:
    flags = {flag.name: value for flag in FLAGS if (value := getattr(arguments, flag.name)) is not None}
    read = partial(Reading, flags=flags, environment=dict(os.environ), file=arguments.config)
    reading = read()
    # imported while the settings are read, and not at all for --help
    tune()
    from multicri_proxy.app import serve  # noqa: PLC0415

    try:
        settings = reading.settings()
    except MulticriError as error:
        print(f"multicri-proxy: {error}", file=sys.stderr)
        return _USAGE_ERROR
    try:
        serve(settings, lambda: read().settings())
    except MulticriError as error:
        print(f"multicri-proxy: {error}", file=sys.stderr)
        return _FAILED
    return 0
