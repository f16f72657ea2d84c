"""Work that outlives the call which began it."""

import asyncio
import gc

import pytest

from multicri_proxy.api.errors import Unavailable
from multicri_proxy.api.tasks import Tasks


async def fails() -> None:
    raise Unavailable("no answer")


async def waits() -> None:
    await asyncio.Event().wait()


async def test_an_error_of_whoever_leaves_comes_out_as_it_is() -> None:
    with pytest.raises(Unavailable, match="no answer"):
        async with Tasks() as tasks:
            tasks.start("wait", waits)
            await fails()


async def test_a_task_that_fails_ends_no_other_one_and_is_told() -> None:
    async with Tasks() as tasks:
        await tasks.start("fail", fails)
        other = tasks.start("wait", waits)
        await asyncio.sleep(0)
        assert not other.done()
    assert other.cancelled()


async def test_an_outcome_is_handed_to_whoever_awaits_it() -> None:
    async with Tasks() as tasks:
        with pytest.raises(Unavailable):
            await tasks.outcome("fail", fails)


async def test_a_step_is_finished_although_its_caller_is_cancelled_and_the_caller_waits_for_it() -> None:
    go_on, done = asyncio.Event(), asyncio.Event()

    async def step() -> None:
        await go_on.wait()
        done.set()

    async with Tasks() as tasks:
        caller = asyncio.ensure_future(tasks.finish("step", step))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert done.is_set()


async def test_work_that_comes_after_the_end_is_refused_and_leaves_nothing_unawaited() -> None:
    async def work() -> None:
        raise AssertionError("it is begun")

    async with Tasks() as tasks:
        pass
    with pytest.raises(RuntimeError):
        await tasks.finish("late", work)
    with pytest.raises(RuntimeError):
        tasks.outcome("late", work)
    gc.collect()  # what was never awaited is told of then
