"""The watcher, with canned answers in place of a cluster."""

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from multicri_slurm.accounts import Account, Login
from multicri_slurm.answers import JobLine, facts
from multicri_slurm.cluster import MOST_JOBS_TO_SACCT, MOST_JOBS_TO_SCONTROL, Cluster
from multicri_slurm.remote_scripts import HISTORY
from multicri_slurm.settings import read_settings
from multicri_slurm.ssh import Result
from multicri_slurm.states import JobState
from multicri_slurm.watcher import FASTEST_S, GROWTH, HURRY_S, LAST_RETRY_S, Watcher

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
        self.argvs: list[Sequence[str]] = []

    async def run(self, argv: Sequence[str], stdin: bytes, timeout_s: float, *, long: bool = False) -> Result:
        which = self.queue if b"squeue" in stdin else self.history
        answer = which.pop(0) if len(which) > 1 else which[0]
        self.argvs.append(argv)
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
        async with asyncio.timeout(60):
            return [await ears.heard.get() for _ in range(count)]
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


class Pauses:
    """A clock that a watcher's own pauses move, so that hours of watching take no time. Stops it after so many."""

    def __init__(self, most: int) -> None:
        self.now, self.taken = 0.0, list[float]()
        self.over = asyncio.Event()
        self._most = most
        self.during: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.taken.append(seconds)
        self.during()
        if event.is_set():
            return True
        self.now += seconds
        if len(self.taken) >= self._most:
            self.over.set()
            await asyncio.Event().wait()
        return False


async def watch(connection: CannedConnection, pauses: Pauses, hurried: bool = False) -> None:
    watcher = Watcher(ACCOUNT, Ears(), poll_interval_s=10.0, clock=pauses.clock, wait=pauses.wait)
    cluster = Cluster(Login(account=ACCOUNT, password="x"), connection, read_settings({}))  # type: ignore[arg-type]
    watcher.track(ContainerId("c"), JobId(7), cluster)
    if hurried:
        pauses.during = watcher.hurry
    running = asyncio.ensure_future(watcher.run())
    async with asyncio.timeout(60):
        await pauses.over.wait()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


THERE = "squeue=7|RUNNING|cn1|lab|n|None\ndone=queue"


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_silent_cluster_is_asked_less_and_less_up_to_a_limit_whatever_happens_on_the_node(
    hurried: bool,
) -> None:
    pauses = Pauses(40)
    await watch(CannedConnection(["cut"]), pauses, hurried)
    expected = [min(LAST_RETRY_S, 1.4 * 2**number) for number in range(40)]
    assert all(0.8 * wanted <= taken <= 1.2 * wanted for taken, wanted in zip(pauses.taken, expected, strict=True))
    at_the_limit = set(pauses.taken[6:])
    assert len(at_the_limit) > 20  # no two daemons ask in step
    assert min(at_the_limit) < 0.95 * LAST_RETRY_S < 1.05 * LAST_RETRY_S < max(at_the_limit)


async def test_a_cluster_that_answers_again_is_asked_often_at_once_and_then_as_seldom_as_an_idle_one() -> None:
    pauses = Pauses(40)
    await watch(CannedConnection([*["cut"] * 10, THERE]), pauses)
    silent, answered = pauses.taken[9], pauses.taken[10:]
    assert silent >= 0.8 * LAST_RETRY_S
    assert answered[0] <= 1.2 * FASTEST_S * GROWTH
    expected = [min(10.0, FASTEST_S * GROWTH ** (number + 1)) for number in range(len(answered))]
    assert all(0.8 * wanted <= taken <= 1.2 * wanted for taken, wanted in zip(answered, expected, strict=True))


async def test_a_job_that_has_just_been_submitted_is_asked_for_often_for_a_while() -> None:
    pauses = Pauses(60)
    await watch(CannedConnection([THERE]), pauses)
    hurried = [taken for number, taken in enumerate(pauses.taken) if sum(pauses.taken[:number]) < HURRY_S]
    assert len(hurried) > HURRY_S / FASTEST_S / 1.3
    assert max(hurried) <= 1.2 * FASTEST_S
    assert min(pauses.taken[-10:]) >= 0.8 * 10.0


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
    async with asyncio.timeout(60):
        assert await ears.heard.get() == ("over", "d", "COMPLETED", False)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_job_that_only_the_accounting_still_has_running_is_not_lost_at_once() -> None:
    history = f"scontrol-error-7={GONE}\nsacct=7|RUNNING|0:0|cn1|lab|n\nsacct-done=1\ndone=history"
    news = await first_news(CannedConnection(["done=queue"], [history]), count=3)
    assert news == [("over", "c", None, True)] * 3


async def test_an_old_word_of_the_accounting_is_not_taken_for_what_the_job_does_now() -> None:
    old = "sacct=7|PENDING|0:0||lab|n\nsacct-done=1\ndone=history"
    new = "scontrol-7=JobId=7 JobName=n JobState=RUNNING Reason=None NodeList=cn1\n" + old
    assert await first_news(CannedConnection(["done=queue"], [old, new])) == [("seen", "c", Phase.RUNNING)]


async def test_the_history_of_many_jobs_costs_few_queries_of_a_bounded_size() -> None:
    connection = CannedConnection([""], [f"scontrol-error-1={GONE}\nsacct-done=1\ndone=history"])
    cluster = Cluster(Login(account=ACCOUNT, password="x"), connection, read_settings({}))  # type: ignore[arg-type]
    jobs = [JobId(number) for number in range(1, 5001)]
    history = await cluster.history(jobs)
    assert history.unknown == {1}
    assert len(connection.argvs) == 5000 // MOST_JOBS_TO_SACCT
    assert max(len(" ".join(argv)) for argv in connection.argvs) < 10_000
    allowances = [int(argv[3]) for argv in connection.argvs]
    assert allowances == [MOST_JOBS_TO_SCONTROL - number for number in range(len(allowances))]


async def test_five_thousand_jobs_are_watched_with_one_query() -> None:
    queue = "".join(f"squeue={number}|RUNNING|cn1|lab|n|None\n" for number in range(1, 5001)) + "done=queue"
    connection, ears = CannedConnection([queue]), Ears()
    watcher = Watcher(ACCOUNT, ears, poll_interval_s=3600)
    cluster = Cluster(Login(account=ACCOUNT, password="x"), connection, read_settings({}))  # type: ignore[arg-type]
    for number in range(1, 5001):
        watcher.track(ContainerId(f"c{number}"), JobId(number), cluster)
    running = asyncio.ensure_future(watcher.run())
    async with asyncio.timeout(60):
        heard = {(await ears.heard.get())[1] for _ in range(5000)}
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert len(heard) == 5000
    assert connection.asked.get_nowait() == "queue"
    assert connection.asked.empty()


SACCT = """#!/bin/sh
echo sacct >> "$CALLS"
for number in $(seq 101 600); do echo "$number|COMPLETED|0:0|cn1|lab|n"; done
echo "100|RUNNING|0:0|cn1|lab|n"
"""
SCONTROL = """#!/bin/sh
echo scontrol >> "$CALLS"
echo "slurm_load_jobs error: Invalid job id specified" >&2
exit 1
"""


def test_the_remote_script_asks_scontrol_only_for_the_first_few_jobs_that_sacct_tells_no_end_of(tmp_path: Path) -> None:
    for name, text in (("sacct", SACCT), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-s", "--", "5", *map(str, range(1, 601))],
        input=HISTORY.encode(),
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls")},
        capture_output=True,
        check=True,
    )
    told = facts(done.stdout)
    assert (tmp_path / "calls").read_text().split() == ["sacct", *["scontrol"] * 5]
    assert len(told["sacct"]) == 501
    assert {name for name in told if name.startswith("scontrol")} == {f"scontrol-error-{n}" for n in range(1, 6)}
    assert "done" in told
