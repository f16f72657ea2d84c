"""The command line's end of ``multicri-proxy jobs``."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from multicri_proxy.admin import DEFAULT_SOCKET_PATH, ask
from multicri_proxy.api.errors import MulticriError, Unavailable
from multicri_proxy.jobs.table import table

_FAILED = 1
_ANSWER_S = 10.0
_CLEAR = "\x1b[H\x1b[2J"

_JOBS = """\
List the containers that a running multicri-proxy runs as jobs: pod, container, the job's id, its state in the cluster,
why it waits or how it ended, its nodes, for how long it has run, and the account it runs under. Everything is told from
the daemon's memory, as the cluster said it last; no cluster is asked.

  multicri-proxy jobs
  multicri-proxy jobs --watch                      again every two seconds, until Ctrl-C
  multicri-proxy jobs -o json | jq -r '.[] | select(.state == "PENDING") | .pod + " " + .reason'
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register ``jobs`` with the command line; it sets ``run``."""
    jobs = commands.add_parser(
        "jobs",
        help="list pods that run as jobs",
        description=_JOBS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    jobs.add_argument(
        "--watch",
        nargs="?",
        const=2.0,
        type=_interval,
        metavar="S",
        help="again every so many seconds (default: %(const)g), until interrupted, through the daemon's restarts too",
    )
    jobs.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="json: an array a line (default: %(default)s)",
    )
    jobs.add_argument(
        "--admin-socket",
        type=Path,
        default=Path(DEFAULT_SOCKET_PATH),
        metavar="PATH",
        help="the daemon's admin socket (default: %(default)s)",
    )
    jobs.set_defaults(run=_run)


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("wants 0.1 to 3600 seconds")
    return seconds


def _run(arguments: argparse.Namespace) -> int:
    try:
        _show(arguments)
        while arguments.watch is not None:
            time.sleep(arguments.watch)
            try:
                _show(arguments)
            except Unavailable as error:  # it may be started again
                print(f"multicri-proxy: {error}", file=sys.stderr)
    except MulticriError as error:
        print(f"multicri-proxy: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _show(arguments: argparse.Namespace) -> None:
    jobs = read_jobs(arguments.admin_socket)
    text = f"{json.dumps(jobs)}\n" if arguments.output == "json" else table(jobs)
    cleared = _CLEAR if arguments.watch is not None and arguments.output == "table" and sys.stdout.isatty() else ""
    print(f"{cleared}{text}", end="", flush=True)


def read_jobs(admin_socket: Path) -> list[dict[str, Any]]:
    """Raises Unavailable if the answer does not come to its end, and whatever `multicri_proxy.admin.ask` does."""
    rows = [json.loads(line) for line in ask(admin_socket, {"command": "jobs"}, for_s=_ANSWER_S) if line]
    if not rows or rows[-1] != {"jobs": len(rows) - 1}:
        raise Unavailable(f"{admin_socket}: the daemon did not finish its answer")
    return rows[:-1]
