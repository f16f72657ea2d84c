"""The command line's end of ``multicri-proxy images``."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from multicri_proxy.admin import DEFAULT_SOCKET_PATH, ask
from multicri_proxy.api.errors import MulticriError, Unavailable
from multicri_proxy.images.table import shown, size_text, table

_FAILED = 1
_ANSWER_S = 180.0

_IMAGES = """\
List the images that were pulled for multicri pods, and pull or remove some: asked of the running daemon. An image is
named as in a pod, or by its id or the first 12 digits of that.

  multicri-proxy images                                            what there is, and how many containers use it
  multicri-proxy images pull multicri/docker-repository.perl:5     ask its registry what the name means now
  multicri-proxy images rm multicri/docker-repository.perl:5       forget it, and delete what was built of it
  multicri-proxy images prune                                      the same of all that no container uses
  multicri-proxy images log multicri/docker-repository.perl:5      the end of what its builders wrote
"""

_HELP = {
    "list": "list images (also without a word)",
    "pull": "ask an image's registry what its name means now, and record it",
    "rm": "forget an image with all of its names, and delete what was built of it",
    "prune": "the same of all images that no container uses and that are not pinned",
    "log": "the end of what the builders of an image wrote, where there is something",
}


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register ``images`` with the command line; it sets ``run``."""
    images = commands.add_parser(
        "images",
        help="list, pull and remove images of multicri pods",
        description=_IMAGES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_options(images, default=DEFAULT_SOCKET_PATH)
    ways = images.add_subparsers(dest="way", metavar="COMMAND")
    for way, about in _HELP.items():
        parser = ways.add_parser(way, help=about, description=about.capitalize() + ".", allow_abbrev=False)
        _add_options(parser, default=argparse.SUPPRESS)
        if way in {"pull", "rm", "log"}:
            parser.add_argument("name", metavar="IMAGE", help="its name as in a pod, or its id")
        if way == "rm":
            parser.add_argument("--force", action="store_true", help="also if containers use it")
    images.set_defaults(run=_run, way="list", name="", force=False)


def _add_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Before or after the command's own word, as one likes."""
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table" if default is not argparse.SUPPRESS else default,
        help="json: an object a line (default: table)",
    )
    parser.add_argument(
        "--admin-socket",
        type=Path,
        default=default if default is argparse.SUPPRESS else Path(default),
        metavar="PATH",
        help=f"the daemon's admin socket (default: {DEFAULT_SOCKET_PATH})",
    )


def _run(arguments: argparse.Namespace) -> int:
    request = {"command": "images", "do": arguments.way or "list", "name": arguments.name, "force": arguments.force}
    try:
        _show(_answered(arguments.admin_socket, request), arguments)
    except MulticriError as error:
        print(f"multicri-proxy: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _answered(admin_socket: Path, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of the answer. Raises Unavailable if it does not come to its end, or says why it could not."""
    for line in ask(admin_socket, request, for_s=_ANSWER_S):
        row: dict[str, Any] = json.loads(line) if line else {}
        if "failed" in row:
            raise Unavailable(row["failed"])
        if "end" in row:
            return
        if row:
            yield row
    raise Unavailable(f"{admin_socket}: the daemon did not finish its answer")


def _show(rows: Iterator[dict[str, Any]], arguments: argparse.Namespace) -> None:
    if arguments.output == "json":
        for row in rows:
            print(json.dumps(row), flush=True)
    elif arguments.way in {None, "list"}:
        print(table(list(rows)), end="")
    else:
        for row in rows:
            print(_line(row, arguments.way), flush=True)


def _line(row: Mapping[str, Any], way: str) -> str:
    if "progress" in row:
        return shown(row["progress"])
    if way == "log":
        log = "\n".join(f"  {shown(line)}" for line in row["log"].splitlines())
        return f"{shown(row['place'])}: {row['state']}\n{log}"
    name = ", ".join(row["names"] or row["digests"] or [row["source"]])
    done = {"pull": "pulled", "rm": "removed", "prune": "removed"}[way]
    return shown(f"{done} {name}: {row['id']}, {size_text(row['size_bytes'])}, from {row['source']}")
