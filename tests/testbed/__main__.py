"""Command line of the test bed: PYTHONPATH=tests /usr/bin/python3 -m testbed install|fill|up|down|status|exec."""

import argparse
import os
import sys
from pathlib import Path
from typing import get_args

from testbed.bed import Testbed
from testbed.programs import TestbedError
from testbed.settings import ReleaseName, Settings, default_base

EXIT_DOWN = 3


def main() -> int:
    options = _parser().parse_args()
    base = options.base.resolve()
    try:
        match options.command:
            case "install":
                Testbed(settings=Settings(base=base)).install()
            case "fill":
                Testbed(settings=Settings(base=base)).fill_cache()
            case "up":
                settings = Settings(
                    base=base,
                    release=options.release,
                    accounting=options.accounting,
                    memory_limits=options.memory_limits,
                    measured_jobs=not options.unmeasured,
                )
                Testbed(settings=settings).up()
                return _status(base)
            case "down":
                Testbed(settings=Settings(base=base)).down()
            case "status":
                return _status(base)
            case "exec":
                bed = _found(base)
                argv = bed.cluster.argv_inside(options.host, options.argv or ["bash"], user=options.user)
                os.execvp(argv[0], argv)  # noqa: S606 # its terminal is ours
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m testbed", description=__doc__)
    parser.add_argument("--base", type=Path, default=default_base(), help="where it all lives (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="install the Debian packages it needs")
    commands.add_parser("fill", help="build all that any bed can need, so that up needs neither network nor minutes")
    up = commands.add_parser("up", help="bring it up")
    up.add_argument("--release", choices=get_args(ReleaseName), default="trixie", help="the cluster's Debian")
    up.add_argument("--accounting", action="store_true", help="with mariadb and slurmdbd")
    up.add_argument("--memory-limits", action="store_true", help="let Slurm enforce memory, by cgroup v1")
    up.add_argument("--unmeasured", action="store_true", help="without what sstat tells")
    commands.add_parser("down", help="take it down; only the cache stays")
    commands.add_parser("status", help=f"tell what runs; exit code {EXIT_DOWN} unless all does")
    inside = commands.add_parser("exec", help="run a program (bash) inside a host of the cluster")
    inside.add_argument("--user", default="root", choices=("root", "alice", "bob"))
    inside.add_argument("host", choices=("login", "cn1", "cn2"))
    inside.add_argument("argv", nargs=argparse.REMAINDER)
    return parser


def _found(base: Path) -> Testbed:
    bed = Testbed.found(base)
    if bed is None:
        raise TestbedError(f"no test bed is up in {base}")
    return bed


def _status(base: Path) -> int:
    bed = Testbed.found(base)
    if bed is None:
        print("down")
        return EXIT_DOWN
    alive = bed.alive()
    for name, runs in alive.items():
        print(f"{name:20} {'up' if runs else 'DOWN'}")
    alice, cluster = bed.cluster.user("alice"), bed.cluster
    print(f"containerd           {bed.node.socket}")
    print(f"ssh                  ssh -i {alice.key} -o UserKnownHostsFile={cluster.known_hosts} alice@{cluster.host}")
    print(f"image                {bed.registry.busybox}")
    return 0 if all(alive.values()) else EXIT_DOWN


if __name__ == "__main__":
    sys.exit(main())
