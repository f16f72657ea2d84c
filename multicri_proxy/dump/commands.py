"""The commands ``dump``, ``dump show`` and ``replay``. What they run is imported when they run: ``--help`` is quick."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multicri_proxy.admin import DEFAULT_SOCKET_PATH
from multicri_proxy.api.errors import MulticriError
from multicri_proxy.dump.rules import Rules

_FAILED = 1

_DUMP = """\
Show the CRI calls that a running multicri-proxy passes on, from now on. The daemon records nothing before and
nothing after, and never waits for this command: what it cannot send in time is dropped and counted.

  multicri-proxy dump                              one line a call, for ten seconds
  multicri-proxy dump --follow --method full:CreateContainer,StartContainer
  multicri-proxy dump --follow --pod default/web --method full:.*
  multicri-proxy dump show /var/log/multicri-dump.json
"""

_RULES = """\
which methods in what detail: level:pattern,... where level is off, short (a line a call) or full (the messages too),
and pattern a method's name, * or a regular expression; a rule without a level has the one before's (at first, full);
an exact name wins at once, else the last rule that matches (default: %(default)s)"""

_REPLAY = """\
Send the requests of a JSON Lines dump to a runtime, one after the other, in the order in which they began. Ids that
the runtime gives to sandboxes and containers take the place of the recorded ones. What was redacted is sent redacted,
and images are pulled without the credentials that were. Nothing that the calls create is removed afterwards.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register ``dump`` and ``replay`` with the command line; each sets ``run``."""
    raw = argparse.RawDescriptionHelpFormatter
    dump = commands.add_parser(
        "dump", help="show the calls that pass", description=_DUMP, formatter_class=raw, allow_abbrev=False
    )
    _add_filters(dump, default_rules="short:.*")
    dump.add_argument("--follow", action="store_true", help="until interrupted, through restarts of the daemon too")
    dump.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="without --follow: for how long (default: %(default)g)"
    )
    dump.add_argument(
        "--admin-socket",
        type=Path,
        default=Path(DEFAULT_SOCKET_PATH),
        metavar="PATH",
        help="the daemon's admin socket (default: %(default)s)",
    )
    dump.set_defaults(run=lambda arguments: _guarded(_attach, arguments))
    actions = dump.add_subparsers(metavar="[show]", title="reading files")
    show = actions.add_parser("show", help="show a JSON Lines dump that was written to a file", allow_abbrev=False)
    show.add_argument("files", nargs="+", type=Path, metavar="FILE", help="oldest first")
    _add_filters(show, default_rules="full:.*")
    show.set_defaults(run=lambda arguments: _guarded(_show, arguments))

    replay = commands.add_parser(
        "replay",
        help="send recorded requests to a runtime",
        description=_REPLAY,
        formatter_class=raw,
        allow_abbrev=False,
    )
    replay.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON Lines dumps, oldest first")
    replay.add_argument("--endpoint", required=True, metavar="SOCKET", help="unix:///path of the runtime's socket")
    replay.add_argument(
        "--compare",
        action="store_true",
        help="compare statuses and messages, apart from ids, times and measurements; exit status 1 if any differ",
    )
    replay.add_argument(
        "--timeout-s", type=float, default=120.0, metavar="S", help="longest wait for an answer (default: %(default)g)"
    )
    replay.set_defaults(run=lambda arguments: _guarded(_replay, arguments))


def _add_filters(parser: argparse.ArgumentParser, *, default_rules: str) -> None:
    parser.add_argument("--method", default=default_rules, metavar="RULES", help=_RULES)
    parser.add_argument(
        "--pod",
        action="append",
        default=[],
        metavar="POD",
        help="only calls about this pod: name, namespace/name, uid, or the beginning of a sandbox id; may be repeated",
    )
    parser.add_argument(
        "--container",
        action="append",
        default=[],
        metavar="CONTAINER",
        help="only calls about this container: name, or the beginning of an id; may be repeated",
    )
    parser.add_argument("--format", choices=("yaml", "json"), default="yaml", help="(default: %(default)s)")
    parser.add_argument("--metadata", action="store_true", help="gRPC metadata too")
    parser.add_argument("--show-secrets", action="store_true", help="do not redact")
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="colour for YAML (default: %(default)s)"
    )


def _guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    try:
        return run(arguments)
    except MulticriError as error:
        print(f"multicri-proxy: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _attach(arguments: argparse.Namespace) -> int:
    from multicri_proxy.dump.show import attach  # noqa: PLC0415

    rules = Rules.parse(arguments.method)
    request = {
        "command": "dump",
        "rules": str(rules),
        "pods": arguments.pod,
        "containers": arguments.container,
        "redact": not arguments.show_secrets,
        "metadata": arguments.metadata,
    }
    attach(
        arguments.admin_socket,
        request,
        _formatter(arguments, rules=Rules.parse("full:.*"), select=False),
        for_s=None if arguments.follow else arguments.seconds,
    )
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from multicri_proxy.dump.show import show  # noqa: PLC0415

    show(arguments.files, _formatter(arguments, rules=Rules.parse(arguments.method), select=True))
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from multicri_proxy.dump.show import replay  # noqa: PLC0415

    return replay(arguments.files, arguments.endpoint, compare=arguments.compare, timeout_s=arguments.timeout_s)


def _formatter(arguments: argparse.Namespace, *, rules: Rules, select: bool) -> Any:
    """select: by pod and container; a daemon has done so already."""
    from multicri_proxy.dump.format import Formatter  # noqa: PLC0415
    from multicri_proxy.dump.redact import Redactor  # noqa: PLC0415
    from multicri_proxy.dump.render import render_of  # noqa: PLC0415
    from multicri_proxy.dump.subject import Wanted  # noqa: PLC0415

    colour = arguments.color == "always" or (arguments.color == "auto" and sys.stdout.isatty())
    wanted = Wanted(pods=tuple(arguments.pod), containers=tuple(arguments.container))
    return Formatter(
        rules=rules,
        render=render_of(arguments.format, colour=colour, metadata=arguments.metadata),
        redactor=None if arguments.show_secrets or not select else Redactor(),
        wanted=wanted if select else Wanted(),
    )
