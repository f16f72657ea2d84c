"""From samples to the table."""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from testbed.programs import run

from benchmarks.loads import LOADS, START, Sample
from benchmarks.servers import DIRECT

PAGE = Path(__file__).parents[2] / "deploy" / "performance.md"

_PROXY = "proxy"
_TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- /table -->)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A row of the table. unit: what a value is divided by and what it is then called.

    of_backend: whether it can be told of the backend too; then others are given as a ratio to it as well.
    """

    key: str
    name: str
    divisor: float
    unit: str
    digits: int = 0
    of_backend: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the proxy has to reach. ratio: to direct, else the value itself in the measure's unit."""

    bound: float
    at_most: bool
    ratio: bool

    def met(self, value: float, ratio: float) -> bool:
        reached = ratio if self.ratio else value
        return reached <= self.bound if self.at_most else reached >= self.bound


_P50 = Measure(key="p50_us", name="p50", divisor=1, unit="µs")
_P99 = Measure(key="p99_us", name="p99", divisor=1, unit="µs")
_PER_SECOND = Measure(key="per_second", name="per second", divisor=1, unit="")
_CPU = Measure(key="cpu_us", name="CPU for each", divisor=1, unit="µs", of_backend=False)
_RESIDENT = Measure(key="resident_bytes", name="resident, at most", divisor=1 << 20, unit="MiB", of_backend=False)
_START = Measure(key="start_ms", name="exec to first answer", divisor=1000, unit="s", digits=3)

_SMALL_1, _SMALL_8, _SMALL_64, _LIST, _EVENTS = (load.name for load in LOADS)

_ROWS = (
    *((load, measure) for load in (_SMALL_1, _SMALL_8, _SMALL_64) for measure in (_P50, _P99, _PER_SECOND, _CPU)),
    *((_LIST, measure) for measure in (_P50, _P99, _PER_SECOND, _CPU, _RESIDENT)),
    *((_EVENTS, measure) for measure in (_P50, _P99, _PER_SECOND, _CPU)),
    (START, _START),
)

_TARGETS = {
    (_SMALL_1, _P50): Target(bound=8, at_most=True, ratio=True),
    (_SMALL_64, _PER_SECOND): Target(bound=0.05, at_most=False, ratio=True),
    (_LIST, _PER_SECOND): Target(bound=0.3, at_most=False, ratio=True),
    (_LIST, _RESIDENT): Target(bound=70, at_most=True, ratio=False),
    (START, _START): Target(bound=0.3, at_most=True, ratio=False),
}


def table(samples: Sequence[Sample]) -> str:
    """Medians of all rounds; in brackets the median of each round's ratio to direct."""
    names = list(dict.fromkeys(sample.contender for sample in samples))
    lines = [
        _line(["load", "measure", *names, "target"]),
        _line(["---", "---", *("---:" for _ in names), "---"]),
    ]
    previous = ""
    for load, measure in _ROWS:
        cells = [_cell(samples, name, load, measure) for name in names]
        lines.append(_line([load if load != previous else "", measure.name, *cells, _verdict(samples, load, measure)]))
        previous = load
    return "\n".join(lines) + "\n"


def conditions(command: str) -> str:
    """What the table was made by and on. Versions of Python packages are those of this interpreter."""
    grpc_dev = run(["dpkg-query", "-W", "-f", "${Version}", "golang-google-grpc-dev"], timeout_s=60).stdout
    nginx = run(["nginx", "-v"], timeout_s=60).stderr.strip().rpartition("/")[2]
    go = run(["go", "env", "GOVERSION"], timeout_s=60).stdout.strip().removeprefix("go")
    parts = [
        f"{os.cpu_count()} cores",
        f"Linux {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        f"grpcio {version('grpcio')}",
        f"uvloop {version('uvloop')}",
        f"nginx {nginx}",
        f"Go {go} with grpc {grpc_dev.partition('-')[0]}",
    ]
    return f"Made by `{command}`: {', '.join(parts)}.\n"


def publish(text: str) -> None:
    """Put the table in its place on the page."""
    PAGE.write_text(_TABLE.sub(lambda _: text, PAGE.read_text()))


def _values(samples: Sequence[Sample], contender: str, load: str, measure: Measure) -> dict[int, float]:
    return {
        sample.round: sample.values[measure.key] / measure.divisor
        for sample in samples
        if sample.contender == contender and sample.load == load
    }


def _ratio(samples: Sequence[Sample], contender: str, load: str, measure: Measure) -> float:
    direct = _values(samples, DIRECT, load, measure)
    return median(value / direct[n] for n, value in _values(samples, contender, load, measure).items())


def _cell(samples: Sequence[Sample], contender: str, load: str, measure: Measure) -> str:
    if contender == DIRECT and not measure.of_backend:
        return ""
    value = f"{median(_values(samples, contender, load, measure).values()):,.{measure.digits}f} {measure.unit}".strip()
    if contender == DIRECT or not measure.of_backend or load == START:
        return value
    return f"{value} ({_two_digits(_ratio(samples, contender, load, measure))})"


def _two_digits(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _verdict(samples: Sequence[Sample], load: str, measure: Measure) -> str:
    target = _TARGETS.get((load, measure))
    if target is None:
        return ""
    value = median(_values(samples, _PROXY, load, measure).values())
    bound = f"({target.bound:g})" if target.ratio else f"{target.bound:g} {measure.unit}"
    met = target.met(value, _ratio(samples, _PROXY, load, measure))
    return f"{'≤' if target.at_most else '≥'} {bound}: {'met' if met else '**missed**'}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
