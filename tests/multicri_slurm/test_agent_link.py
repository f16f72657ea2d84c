"""The proxy's side of an agent: with a real one on this machine, and with programs that only pretend to be one."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from multicri_slurm import agent
from multicri_slurm.agent_link import Link

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import FailedPrecondition, Unavailable

NONCE = "0123456789abcdef"
GREETING = f"multicri-{NONCE}:begin"
PATIENCE_S = 60.0


@asynccontextmanager
async def linked(directory: Path, *argv: str) -> AsyncIterator[Link]:
    """With a program at the other end, whose streams are as asyncssh's would be."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=directory)
    link = Link("job 7", cast(Any, process), NONCE)
    tasks = [asyncio.create_task(link.note())]
    try:
        async with asyncio.timeout(PATIENCE_S):
            await link.begin()
            tasks.append(asyncio.create_task(link.run()))
            yield link
    finally:
        assert process.stdin
        process.stdin.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@asynccontextmanager
async def with_agent(directory: Path) -> AsyncIterator[Link]:
    async with linked(directory, sys.executable, "-I", "-S", agent.__file__, GREETING) as link:
        yield link


def saying(frame: str, times: int = 1, then: str = "sys.stdin.read()") -> tuple[str, ...]:
    """A program that greets as an agent does, and says this as soon as it is spoken to."""
    text = f"""import sys
from multicri_slurm import agent
print(sys.argv[1], flush=True)
sys.stdin.read(1)
sys.stdout.buffer.write({frame} * {times})
sys.stdout.buffer.flush()
{then}
"""
    return (sys.executable, "-c", text, GREETING)


async def all_of(command: Any, stream: OutputStream = OutputStream.STDOUT) -> bytes:
    said = b""
    while piece := await command.read(stream, 4096):
        said += piece
    return said


async def test_a_command_whose_output_nobody_reads_stops_no_other(tmp_path: Path) -> None:
    size = 20 * agent.WINDOW_BYTES
    async with with_agent(tmp_path) as link:
        many = link.command(agent.NO_INPUT, ["sh", "-c", f"head -c {size} /dev/zero"])
        async with many as slow:
            for number in range(5):
                async with link.command(agent.PIPES, ["cat"]) as quick:
                    await quick.write(b"%d" % number)
                    quick.end_input()
                    assert await all_of(quick) == b"%d" % number
            assert not slow.over.is_set()
            assert await all_of(slow) == bytes(size)


async def test_what_is_written_is_held_back_until_it_is_read(tmp_path: Path) -> None:
    script = "while [ ! -e go ]; do sleep 0.05; done; wc -c"
    async with with_agent(tmp_path) as link, link.command(agent.PIPES, ["sh", "-c", script]) as command:
        writing = asyncio.create_task(command.write(bytes(10 * agent.WINDOW_BYTES)))
        async with link.command(agent.NO_INPUT, ["sh", "-c", "echo other"]) as other:
            assert await all_of(other) == b"other\n"
        assert not writing.done()
        (tmp_path / "go").touch()
        await writing
        command.end_input()
        assert int(await all_of(command)) == 10 * agent.WINDOW_BYTES


async def test_a_command_that_is_left_is_dead_when_it_is_left(tmp_path: Path) -> None:
    async with with_agent(tmp_path) as link:
        script = "echo $$ > pid; echo begun; yes"
        async with link.command(agent.NO_INPUT, ["sh", "-c", script]) as command:
            await command.read(OutputStream.STDOUT, 10)
        assert not agent.start_time(int((tmp_path / "pid").read_text()))
        async with link.command(agent.NO_INPUT, ["true"]) as another:
            assert await all_of(another) == b""


@pytest.mark.parametrize(
    ("frame", "times"),
    [
        ("agent.frame(99, 1)", 1),
        ("agent.HEAD.pack(agent.STDOUT, 1, 1 << 30)", 1),
        ("agent.frame(agent.STDOUT, 1, bytes(1000))", 200),
        ("agent.frame(agent.CREDIT, 1, b'?')", 1),
        ("agent.frame(agent.CONNECTION, agent.OURS + 1)", 1),
    ],
    ids=["unknown kind", "too long", "more than it has credit for", "no amount", "connection that nobody wants"],
)
async def test_who_speaks_in_an_agents_place_is_not_listened_to_for_long(
    tmp_path: Path, frame: str, times: int
) -> None:
    async with linked(tmp_path, *saying(frame, times)) as link, link.command(agent.NO_INPUT, ["true"]) as command:
        await link.over.wait()
        with pytest.raises(Unavailable, match="its agent makes no sense"):
            await all_of(command, OutputStream.STDERR)
        assert link.is_over()


async def test_an_agent_that_goes_takes_its_commands_along(tmp_path: Path) -> None:
    program = saying("b''", then="")
    async with linked(tmp_path, *program) as link, link.command(agent.NO_INPUT, ["true"]) as command:
        with pytest.raises(Unavailable, match="its agent has ended"):
            await all_of(command)
        with pytest.raises(Unavailable):
            async with link.command(agent.NO_INPUT, ["true"]):
                pass


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (f"echo multicri-{NONCE}:error=python", FailedPrecondition, "has no Python 3.6"),
        ("echo Welcome; echo 'srun: error: no such job' >&2", Unavailable, "srun: error: no such job Welcome"),
        (":", Unavailable, "nothing was said"),
    ],
)
async def test_why_none_begins_is_told(tmp_path: Path, script: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        async with linked(tmp_path, "sh", "-c", script):
            pass
