"""Command line of the benchmark: tests/benchmarks/run."""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from testbed.programs import TestbedError

from benchmarks.loads import Bench
from benchmarks.report import conditions, publish, table
from benchmarks.tools import build, install_packages

_FAILED = 1


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    try:
        install_packages()
        crib = build()
        with tempfile.TemporaryDirectory(prefix="multicri-benchmark-") as directory:
            bench = Bench(
                crib=crib,
                directory=Path(directory),
                python=options.python,
                more=options.also,
                seconds=options.seconds,
            )
            samples = bench.measure(options.rounds, _progress)
    except TestbedError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return _FAILED
    text = f"{table(samples)}\n{conditions(shlex.join(['tests/benchmarks/run', *argv]))}"
    print(text)
    if options.publish:
        publish(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/benchmarks/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often everything is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long each load lasts (%(default)s)")
    parser.add_argument("--publish", action="store_true", help="put the table into deploy/performance.md")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs the proxy")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        type=_named,
        help="a column for another version of the proxy, installed for another interpreter",
    )
    return parser


def _named(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    if not os.access(python, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=PYTHON with an interpreter that can be run")
    return name, python


def _progress(message: str) -> None:
    print(f"benchmark: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
