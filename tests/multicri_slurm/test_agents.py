"""Which containers have an agent: with real ones, on this machine in place of a cluster."""

import asyncio
import re
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from multicri_slurm import agent
from multicri_slurm.accounts import Account
from multicri_slurm.agents import Agents
from multicri_slurm.records import Record, Stage
from multicri_slurm.running import Running
from multicri_slurm.settings import Settings

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import ResourceExhausted, Unavailable
from multicri_proxy.api.ids import ContainerId, JobId
from multicri_proxy.api.tasks import Tasks


@dataclass
class ThisMachine:
    """A cluster that runs agents here. works: whether it does."""

    directory: Path
    settings: Settings
    works: bool = True
    begun: list["asyncio.subprocess.Process"] = field(default_factory=list)

    @asynccontextmanager
    async def process(self, script: str, *, terminal: bool) -> AsyncIterator[Any]:
        assert not terminal
        words = shlex.split(script[script.index("srun --jobid") :].partition(" <&3")[0])
        greeting = f"multicri-{next(word for word in words if re.fullmatch('[0-9a-f]{32}', word))}:begin"
        argv = [sys.executable, "-I", "-S", agent.__file__, greeting] if self.works else ["false"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.directory)
        self.begun.append(process)
        try:
            yield process
        finally:
            assert process.stdin
            process.stdin.close()
            if process.returncode is None:
                process.terminate()
            await process.communicate()


def running(cluster: ThisMachine, name: str) -> Running:
    record = Record(
        container_id=ContainerId(name),
        stage=Stage.SUBMITTED,
        account=Account(host="login", port=22, username="alice"),
        sealed=b"",
        profile="default",
        directory="/home/alice/d",
        job_name="multicri-x",
        job_id=JobId(7),
    )
    return Running(record=record, job_id=JobId(7), node="cn1", cluster=cast(Any, cluster))


async def said(agents: Agents, one: Running, words: str) -> bytes:
    async with agents.of(one) as link:
        assert link is not None
        async with link.command(agent.NO_INPUT, ["echo", words]) as command:
            return await command.read(OutputStream.STDOUT, 100)


async def test_all_commands_of_a_container_share_one(tmp_path: Path) -> None:
    cluster = ThisMachine(tmp_path, Settings())
    async with Tasks() as tasks:
        agents, one = Agents(tasks), running(cluster, "one")
        answers = await asyncio.gather(*(said(agents, one, str(number)) for number in range(30)))
        assert answers == [b"%d\n" % number for number in range(30)]
        assert len(cluster.begun) == 1
        await said(agents, running(cluster, "other"), "x")
        assert len(cluster.begun) == 2


async def test_one_that_has_ended_is_replaced(tmp_path: Path) -> None:
    cluster = ThisMachine(tmp_path, Settings())
    async with Tasks() as tasks:
        agents, one = Agents(tasks), running(cluster, "one")
        async with agents.of(one) as link:
            assert link is not None
            cluster.begun[0].kill()
            await link.over.wait()
        assert await said(agents, one, "again") == b"again\n"
        assert len(cluster.begun) == 2


async def test_there_are_no_more_than_the_settings_allow(tmp_path: Path) -> None:
    cluster = ThisMachine(tmp_path, Settings(exec_agents=1))
    async with Tasks() as tasks:
        agents, other = Agents(tasks), running(cluster, "other")
        assert await said(agents, running(cluster, "one"), "x") == b"x\n"
        async with agents.of(other) as link:
            assert link is None
        assert isinstance(agents.why_none(other), ResourceExhausted)
        none = ThisMachine(tmp_path, Settings(exec_agents=0))
        async with Agents(tasks).of(running(none, "one")) as link:
            assert link is None
        assert not none.begun


async def test_where_none_begins_it_is_not_tried_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = ThisMachine(tmp_path, Settings(), works=False)
    async with Tasks() as tasks:
        agents = Agents(tasks)
        for name in ("one", "one", "other"):
            async with agents.of(running(cluster, name)) as link:
                assert link is None
        assert len(cluster.begun) == 1
        assert isinstance(agents.why_none(running(cluster, "one")), Unavailable)
    assert [record.message for record in caplog.records if "without an agent" in record.message]
