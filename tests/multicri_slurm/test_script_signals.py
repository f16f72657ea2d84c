"""What a container's script tells of its end when signals come: bash runs it, with a program in Apptainer's place."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from multicri_slurm.exits import ExitFile, read_exit_file
from multicri_slurm.runtimes import Container, Runtime
from multicri_slurm.script import ContainerScript
from testbed.processes import until_gone

ROUNDS = 20
LIMIT_S = 60
APPTAINER = '#!/bin/sh\nwhile [ "$1" != /image.sif ]; do shift; done\nshift\nexec "$@"\n'
DIES = "echo ready; exec sleep 600"
TRAPS = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"


@dataclass(frozen=True, slots=True)
class Running:
    """directory: the script's, with its files. script: the process that Slurm would know."""

    directory: Path
    script: asyncio.subprocess.Process

    def processes(self) -> list[int]:
        return [self.script.pid, *_below(self.script.pid)]

    def send(self, *numbers: signal.Signals, to: Sequence[int]) -> None:
        for number in numbers:
            for pid in to:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue

    async def ended(self) -> ExitFile:
        async with asyncio.timeout(LIMIT_S):
            await self.script.wait()
        found = read_exit_file((self.directory / "exit").read_text())
        assert found
        return found


@asynccontextmanager
async def running(directory: Path, program: str) -> AsyncIterator[Running]:
    """The script of a container that has said that it is ready."""
    container = Container(
        runtime=Runtime(kind="apptainer"),
        image="/image.sif",
        command=("/bin/sh", "-c"),
        args=(program,),
        working_dir="",
    )
    programs, place = directory / "bin", directory / "container"
    programs.mkdir()
    place.mkdir()
    (programs / "apptainer").write_text(APPTAINER)
    (programs / "apptainer").chmod(0o755)
    script = await asyncio.create_subprocess_exec(
        *("bash", "-c", ContainerScript(directory=str(place), container=container).render()),
        env={"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"},
        start_new_session=True,
    )
    running = Running(place, script)
    try:
        async with asyncio.timeout(LIMIT_S):
            while not ((place / "stdout").exists() and (place / "stdout").read_text()):
                await asyncio.sleep(0.01)
        yield running
    finally:
        running.send(signal.SIGKILL, to=running.processes())
        await script.wait()


def _below(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [one for child in children for one in (child, *_below(child))]


@pytest.mark.parametrize(("program", "code"), [(DIES, 143), (TRAPS, 9)])
async def test_a_time_limit_that_tells_every_process_at_once_costs_no_exit_code(
    tmp_path: Path, program: str, code: int
) -> None:
    """slurmstepd sends CONT and TERM to all that it tracks, the script and the container alike."""

    async def one(number: int) -> int:
        directory = tmp_path / str(number)
        directory.mkdir()
        async with running(directory, program) as container:
            told = container.processes()
            container.send(signal.SIGCONT, signal.SIGTERM, to=told if number % 2 else told[::-1])
            return (await container.ended()).code

    assert await asyncio.gather(*map(one, range(ROUNDS))) == [code] * ROUNDS


async def test_a_term_for_the_script_alone_is_the_containers_and_not_its_childrens(tmp_path: Path) -> None:
    program = "sh -c 'trap \"echo told\" TERM; echo ready; while :; do sleep 0.01; done' & trap 'exit 9' TERM; wait"
    async with running(tmp_path, program) as container:
        container.send(signal.SIGTERM, to=[container.script.pid])
        assert (await container.ended()).code == 9
        assert (container.directory / "stdout").read_text() == "ready\n"


async def test_a_stop_is_not_an_end(tmp_path: Path) -> None:
    """As ``scontrol suspend`` has it; on and on, because who is woken first is left to the kernel."""
    async with running(tmp_path, TRAPS) as container:
        for _ in range(ROUNDS):
            everybody = container.processes()
            container.send(signal.SIGSTOP, to=everybody)
            container.send(signal.SIGCONT, to=everybody)
            await asyncio.sleep(0.02)
            assert container.script.returncode is None
        container.send(signal.SIGTERM, to=[container.script.pid])
        assert (await container.ended()).code == 9


@pytest.mark.parametrize(("told", "code"), [(True, 143), (False, 146)])
async def test_apptainers_word_for_a_signal_that_came_too_late_is_that_of_a_term(
    tmp_path: Path, told: bool, code: int
) -> None:
    program = "trap 'exit 146' TERM; echo ready; while :; do sleep 0.01; done"
    async with running(tmp_path, program) as container:
        to = container.processes() if told else [container.script.pid]
        container.send(signal.SIGCONT, signal.SIGTERM, to=to)
        assert (await container.ended()).code == code


async def test_a_kill_is_told_and_leaves_no_process(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep 600 & echo ready; sleep 600") as container:
        [_, *doomed] = container.processes()
        assert len(doomed) >= 3
        container.send(signal.SIGUSR1, to=[container.script.pid])
        assert (await container.ended()).code == 137
        await until_gone(*doomed)
