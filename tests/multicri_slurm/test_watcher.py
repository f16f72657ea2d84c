"""The watcher, with canned answers in place of a cluster."""

import asyncio
import contextlib
from collections.abc import Sequence

from multicri_slurm.accounts import Account, Login
from multicri_slurm.answers import JobLine
from multicri_slurm.cluster import Cluster
from multicri_slurm.settings import read_settings
from multicri_slurm.ssh import Result
from multicri_slurm.states import JobState
from multicri_slurm.watcher import Watcher

from multicri_proxy.api.adapter import Phase
from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.ids import ContainerId, JobId

ACCOUNT = Account(host="h", port=22, username="u")
GONE = "slurm_load_jobs error: Invalid job id specified"


class CannedConnection:
    """Answers squeue and then the history, each list's last answer for good."""

    def __init__(self, queue: Sequence[str], history: Sequence[str] = ("",)) -> None:
        self.queue, self.history = list(queue), list(history)
        self.asked: asyncio.Queue[str] = asyncio.Queue()

    async def run(self, argv: Sequence[str], stdin: bytes, timeout_s: float, *, long: bool = False) -> Result:
        which = self.queue if b"squeue" in stdin else self.history
        answer = which.pop(0) if len(which) > 1 else which[0]
        self.asked.put_nowait("queue" if which is self.queue else "history")
        if answer == "cut":
            raise Unavailable("cut")
        text = "".join(f"multicri:{line}\n" for line in answer.split("\n") if line)
        return Result(exit_code=0, stdout=text.encode(), stderr=b"")


class Ears:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()

    async def job_seen(self, container_id: ContainerId, line: JobLine, state: JobState) -> None:
        self.heard.put_nowait(("seen", container_id, state.phase))

    async def job_over(self, container_id: ContainerId, line: JobLine | None, *, only_if_told: bool = False) -> None:
        self.heard.put_nowait(("over", container_id, line.state if line else None, only_if_told))


async def first_news(connection: CannedConnection, count: int = 1) -> list[tuple[object, ...]]:
    ears = Ears()
    watcher = Watcher(ACCOUNT, ears, poll_interval_s=0.1)
    cluster = Cluster(Login(account=ACCOUNT, password="x"), connection, read_settings({}))  # type: ignore[arg-type]
    watcher.track(ContainerId("c"), JobId(7), cluster)
    running = asyncio.ensure_future(watcher.run())
    try:
        async with asyncio.timeout(20):
            return [await ears.heard.get() for _ in range(count)]
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_a_running_job_is_seen() -> None:
    connection = CannedConnection(["squeue=7|RUNNING|cn1|lab|n|None\ndone=queue"])
    assert await first_news(connection) == [("seen", "c", Phase.RUNNING)]


async def test_a_job_that_squeue_has_forgotten_is_found_by_sacct() -> None:
    history = f"scontrol-error-7={GONE}\nsacct=7|TIMEOUT|0:15|cn1|lab|n\nsacct-done=1\ndone=history"
    assert await first_news(CannedConnection(["done=queue"], [history])) == [("over", "c", "TIMEOUT", False)]


async def test_a_job_is_lost_only_when_nobody_knows_it_twice() -> None:
    history = f"scontrol-error-7={GONE}\nsacct-error=Slurm accounting storage is disabled\ndone=history"
    news = await first_news(CannedConnection(["done=queue"], [history]), count=2)
    assert news == [("over", "c", None, True), ("over", "c", None, False)]


async def test_silence_of_squeue_scontrol_or_sacct_changes_nothing() -> None:
    there = "squeue=7|RUNNING|cn1|lab|n|None\ndone=queue"
    silent = [
        CannedConnection(["stderr=Unable to contact slurm controller", "cut", there]),
        CannedConnection(
            ["done=queue", "done=queue", there], ["scontrol-error-7=Unable to contact\nsacct-done=1\ndone=h"]
        ),
        CannedConnection(
            ["done=queue", "done=queue", there],
            [f"scontrol-error-7={GONE}\nsacct-error=Problem talking to the database\ndone=history"],
        ),
    ]
    for connection in silent:
        assert await first_news(connection) == [("seen", "c", Phase.RUNNING)]


async def test_a_state_that_is_in_no_table_changes_nothing() -> None:
    lines = [f"squeue=7|{state}|cn1|lab|n|None\ndone=queue" for state in ("MEDITATING", "RUNNING")]
    assert await first_news(CannedConnection(lines)) == [("seen", "c", Phase.RUNNING)]


class EarsThatFail(Ears):
    """Cannot act on the first container's end."""

    async def job_over(self, container_id: ContainerId, line: JobLine | None, *, only_if_told: bool = False) -> None:
        if container_id == "c":
            raise Unavailable("its files cannot be read")
        await super().job_over(container_id, line, only_if_told=only_if_told)


async def test_a_job_whose_end_cannot_be_read_keeps_no_other_jobs_end_from_being_told() -> None:
    ears = EarsThatFail()
    watcher = Watcher(ACCOUNT, ears, poll_interval_s=0.1)
    queue = "squeue=7|COMPLETED|cn1|lab|n|None\nsqueue=8|COMPLETED|cn1|lab|n|None\ndone=queue"
    cluster = Cluster(Login(account=ACCOUNT, password="x"), CannedConnection([queue]), read_settings({}))  # type: ignore[arg-type]
    watcher.track(ContainerId("c"), JobId(7), cluster)
    watcher.track(ContainerId("d"), JobId(8), cluster)
    running = asyncio.ensure_future(watcher.run())
    async with asyncio.timeout(20):
        assert await ears.heard.get() == ("over", "d", "COMPLETED", False)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
