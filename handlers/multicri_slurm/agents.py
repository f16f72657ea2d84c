"""The agents that are kept: one for each container into which commands are run, as long as that goes on.

An agent costs a session of sshd, an srun on the login host and a step of the job, all for as long as it stays. A
container without one has a step for each command.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from multicri_proxy.api.errors import FailedPrecondition, MulticriError, ResourceExhausted, Unavailable
from multicri_proxy.api.ids import ContainerId
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks
from multicri_slurm.accounts import Account
from multicri_slurm.agent_link import Link
from multicri_slurm.entering import agent_script_of
from multicri_slurm.retries import within
from multicri_slurm.running import Running

IDLE_S = 300.0
LOOK_S = 15.0
EVICTABLE_AFTER_S = 60.0
RETRY_S, WITHOUT_S = 60.0, 3600.0

_log = Log("slurm.agents")


@dataclass(slots=True, kw_only=True)
class _Kept:
    """link: once it has begun; None if it could not. users: how many commands it runs."""

    account: Account
    link: "asyncio.Future[Link | None]"
    users: int = 0
    used_at: float
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)

    def is_over(self) -> bool:
        link = self.link.result() if self.link.done() else None
        return self.unwanted.is_set() or (link is not None and link.is_over())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    error: MulticriError
    holds_until: float


class Agents:
    """Begun for a container's first command; ended with the container, when idle, or for another one's sake."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._kept: dict[ContainerId, _Kept] = {}
        self._failures: dict[Account, _Failure] = {}

    @asynccontextmanager
    async def of(self, running: Running) -> AsyncIterator[Link | None]:
        """The container's agent, which is kept for that long; None if it has none, and will not have one now."""
        kept = self._kept_for(running)
        if kept is None:
            yield None
            return
        kept.users += 1
        try:
            yield await asyncio.shield(kept.link)
        finally:
            kept.users -= 1
            kept.used_at = _now()

    def why_none(self, running: Running) -> MulticriError:
        """For a container that must have one."""
        if (failure := self._failures.get(running.record.account)) is not None:
            return type(failure.error)(str(failure.error))
        most = running.cluster.settings.exec_agents
        return ResourceExhausted(f"{running}: {most} agents run already, which is all that exec_agents allows")

    def _kept_for(self, running: Running) -> _Kept | None:
        container_id, account = running.record.container_id, running.record.account
        if (kept := self._kept.get(container_id)) is not None and not kept.is_over():
            return kept
        failure = self._failures.get(account)
        if (failure is not None and _now() < failure.holds_until) or not self._has_room(running):
            return None
        kept = _Kept(account=account, link=asyncio.get_running_loop().create_future(), used_at=_now())
        self._kept[container_id] = kept
        self._tasks.start(f"keep the agent of {container_id}", partial(self._keep, running, kept))
        return kept

    def _has_room(self, running: Running) -> bool:
        """Of the account's, the one that was not used for longest goes, if it is idle."""
        account, settings = running.record.account, running.cluster.settings
        others = [kept for kept in self._kept.values() if kept.account == account and not kept.is_over()]
        most = settings.exec_agents if settings.rest_url is None else 0
        if len(others) < most:
            return True
        idle = [kept for kept in others if not kept.users and _now() - kept.used_at > EVICTABLE_AFTER_S]
        if idle and most:
            min(idle, key=lambda kept: kept.used_at).unwanted.set()
        return False

    async def _keep(self, running: Running, kept: _Kept) -> None:
        try:
            await self._serve(running, kept)
        except MulticriError as error:
            account = running.record.account
            if account not in self._failures:
                _log.warning("commands are run without an agent for now", account=account, reason=error)
            pause_s = WITHOUT_S if isinstance(error, FailedPrecondition) else RETRY_S
            self._failures[account] = _Failure(error=error, holds_until=_now() + pause_s)
        finally:
            if self._kept.get(running.record.container_id) is kept:
                del self._kept[running.record.container_id]
            if not kept.link.done():
                kept.link.set_result(None)

    async def _serve(self, running: Running, kept: _Kept) -> None:
        nonce, limit_s = secrets.token_hex(16), running.cluster.settings.command_timeout_s
        script = agent_script_of(
            running.cluster.settings.exec_by,
            job_id=running.job_id,
            node=running.node,
            directory=running.record.directory,
            nonce=nonce,
        )
        async with running.cluster.process(script, terminal=False) as process, Tasks() as tasks:
            link = Link(str(running), process, nonce)
            tasks.start("note what Slurm says", link.note)
            try:
                async with asyncio.timeout(limit_s):
                    await link.begin()
            except TimeoutError as error:
                raise Unavailable(f"{running}: no agent begins there within {limit_s:g} s") from error
            self._failures.pop(running.record.account, None)
            tasks.start("hear the agent", link.run)
            tasks.start("hear when it is over", partial(_tell, link.over, kept.unwanted))
            kept.link.set_result(link)
            _log.info("an agent runs commands", container_id=running.record.container_id, job_id=running.job_id)
            while not await within(kept.unwanted, LOOK_S):
                if not kept.users and _now() - kept.used_at > IDLE_S:
                    break
            kept.unwanted.set()
            link.end(Unavailable(f"{running}: its agent is not kept any more"))


async def _tell(over: asyncio.Event, unwanted: asyncio.Event) -> None:
    await over.wait()
    unwanted.set()


def _now() -> float:
    return asyncio.get_running_loop().time()
