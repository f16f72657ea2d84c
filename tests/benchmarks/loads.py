"""The loads, and one run of all of them against everybody in turn."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from testbed.programs import run

from benchmarks.messages import Messages, answers, requests
from benchmarks.servers import DIRECT, Contender, contenders, socket_in, started

START = "start"
"""What is measured besides the loads: from exec to the first answer."""

_SMALL, _LIST, _EVENTS = "ContainerStatus", "ListContainers", "GetContainerEvents"
_SLACK_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """in_flight: calls at a time; 0 for a stream."""

    name: str
    method: str
    in_flight: int


LOADS = (
    Load(name="small call, 1 in flight", method=_SMALL, in_flight=1),
    Load(name="small call, 8 in flight", method=_SMALL, in_flight=8),
    Load(name="small call, 64 in flight", method=_SMALL, in_flight=64),
    Load(name="list of 1,000, 8 in flight", method=_LIST, in_flight=8),
    Load(name="event stream", method=_EVENTS, in_flight=0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one load, or a start, gave once. values: by the names that the load generator prints."""

    contender: str
    load: str
    round: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """crib: the load generator. directory: an empty one for everything. python, more: see `contenders`."""

    crib: Path
    directory: Path
    python: str
    more: Sequence[tuple[str, str]]
    seconds: float

    def measure(self, rounds: int, tell: Callable[[str], None]) -> list[Sample]:
        """Put each load on each contender in turn, in every round with another one first, then start each anew."""
        backend = self._new("backend")
        self._write(backend / "answers", answers())
        self._write(self.directory / "requests", requests())
        everyone = list(contenders(crib=self.crib, directory=backend, python=self.python, more=self.more))
        samples = []
        with ExitStack() as stack:
            places = {
                contender.name: backend if contender.name == DIRECT else self._new(f"{number}")
                for number, contender in enumerate(everyone)
            }
            pids = {each.name: stack.enter_context(started(each, places[each.name])) for each in everyone}
            starts = {each.name: self._new(f"start-{number}") for number, each in enumerate(everyone)}
            for each in everyone:  # fills caches, and what the contender keeps on disk
                self._start(each, starts[each.name])
            for number in range(rounds):
                tell(f"round {number + 1} of {rounds}")
                turn = number % len(everyone)
                order = [*everyone[turn:], *everyone[:turn]]
                for load in LOADS:
                    for each in order:
                        values = self._put(load, places[each.name], pids[each.name])
                        samples.append(Sample(contender=each.name, load=load.name, round=number, values=values))
                for each in order:
                    values = self._start(each, starts[each.name])
                    samples.append(Sample(contender=each.name, load=START, round=number, values=values))
        return samples

    def _new(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir()
        return path

    def _write(self, directory: Path, files: Messages) -> None:
        directory.mkdir()
        for name, content in files:
            (directory / name).write_bytes(content)

    def _put(self, load: Load, place: Path, pid: int) -> dict[str, float]:
        socket, request = str(socket_in(place)), str(self.directory / "requests" / load.method)
        length_and_pid = (str(self.seconds), str(pid))
        if load.in_flight:
            return self._ask("unary", socket, load.method, request, str(load.in_flight), *length_and_pid)
        return self._ask("events", socket, request, *length_and_pid)

    def _start(self, contender: Contender, directory: Path) -> dict[str, float]:
        socket = socket_in(directory)
        socket.unlink(missing_ok=True)
        request = str(self.directory / "requests" / _SMALL)
        return self._ask("start", str(socket), _SMALL, request, *contender.command(directory))

    def _ask(self, *argv: str) -> dict[str, float]:
        done = run([str(self.crib), *argv], timeout_s=self.seconds + _SLACK_S)
        values: dict[str, float] = json.loads(done.stdout)
        return values
