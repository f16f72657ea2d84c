"""The command line's end of ``multicri-proxy images``."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from multicri_proxy.admin import DEFAULT_SOCKET_PATH, ask
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, MulticriError, Unavailable
from multicri_proxy.images.progress import Progress
from multicri_proxy.images.table import shown, size_text, table

_FAILED = 1
_ANSWER_S = 180.0

_IMAGES = """\
List the images that were pulled for multicri pods, and pull or remove some: asked of the running daemon. An image is
named as in a pod, or by its id or the first 12 digits of that.

  multicri-proxy images                                            what there is, and how many containers use it
  multicri-proxy images pull multicri/docker-repository.perl:5     ask its registry what the name means now, and
                                                                   build it, if this node runs its containers
  multicri-proxy images rm multicri/docker-repository.perl:5       forget it, and delete what was built of it
  multicri-proxy images prune                                      the same of all that no container uses
  multicri-proxy images log multicri/docker-repository.perl:5      the end of what its builders wrote

For a private image, one of these; nothing secret goes on the command line, and the credentials are for pods of one
namespace:

  multicri-proxy images pull IMAGE --namespace physics --docker-config ~/.docker/config.json
  multicri-proxy images pull IMAGE --namespace physics --username robot --password-stdin < password.txt
"""

_HELP = {
    "list": "list images (also without a word)",
    "pull": "ask an image's registry what its name means now, record it, and build it if this node runs its containers",
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
        if way == "pull":
            _add_credentials(parser)
        if way == "rm":
            parser.add_argument("--force", action="store_true", help="also if containers use it")
    images.set_defaults(run=_run, way="list", name="", force=False)


def _add_credentials(pull: argparse.ArgumentParser) -> None:
    pull.add_argument("--namespace", default="", metavar="NAME", help="whose pods may use the credentials")
    pull.add_argument(
        "--docker-config", type=Path, metavar="FILE", help="credentials from a file as 'docker login' writes it"
    )
    pull.add_argument("--username", default="", metavar="NAME", help="at the image's registry")
    pull.add_argument("--password-stdin", action="store_true", help="read the password of --username from stdin")


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
        if arguments.way == "pull":
            request |= {"namespace": arguments.namespace, **_credentials(arguments)}
        _show(_answered(arguments.admin_socket, request), arguments)
    except MulticriError as error:
        print(f"multicri-proxy: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _credentials(arguments: argparse.Namespace) -> dict[str, str]:
    """Raises InvalidArgument for options that do not go together, FailedPrecondition for a file that cannot be read."""
    if arguments.docker_config is not None:
        if arguments.username or arguments.password_stdin:
            raise InvalidArgument("--docker-config: must not be given together with --username")
        try:
            return {"docker_config": arguments.docker_config.read_text()}
        except (OSError, ValueError) as error:
            raise FailedPrecondition(f"--docker-config: {arguments.docker_config} cannot be read: {error}") from error
    if bool(arguments.username) != arguments.password_stdin:
        raise InvalidArgument("--username and --password-stdin: must be given together")
    if not arguments.username:
        return {}
    return {"username": arguments.username, "password": sys.stdin.read().rstrip("\r\n")}


def _answered(admin_socket: Path, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of the answer. Raises Unavailable if it does not come to its end, or says why it could not."""
    for line in ask(admin_socket, request, for_s=_ANSWER_S if request["do"] != "pull" else None):
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
        _show_lines(rows, arguments.way)


def _show_lines(rows: Iterator[dict[str, Any]], way: str) -> None:
    progress = Progress(sys.stdout)
    try:
        for row in rows:
            if "progress" in row:
                progress.show(row)
            else:
                progress.clear()
                print(_line(row, way), flush=True)
    finally:
        progress.clear()


def _line(row: Mapping[str, Any], way: str) -> str:
    if way == "log":
        log = "\n".join(f"  {shown(line)}" for line in row["log"].splitlines())
        return f"{shown(row['place'])}: {row['state']}\n{log}"
    name = ", ".join(row["names"] or row["digests"] or [row["source"]])
    done = {"pull": "pulled", "rm": "removed", "prune": "removed"}[way]
    return shown(f"{done} {name}: {row['id']}, {size_text(row['size_bytes'])}, from {row['source']}")
