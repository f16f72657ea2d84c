"""Work on the node's files that does not come back."""

import asyncio
import threading
from contextlib import suppress

import pytest
from multicri_slurm.node_threads import MOST_AT_ONCE, NodeThreads

from multicri_proxy.api.errors import InvalidArgument, Unavailable


async def test_results_and_errors_come_out_as_they_are() -> None:
    def fail() -> None:
        raise InvalidArgument("this one")

    node = NodeThreads()
    assert await node.do(lambda: 7) == 7
    with pytest.raises(InvalidArgument, match="this one"):
        await node.do(fail)


async def test_what_hangs_is_unavailable_and_only_so_much_of_it_is_begun() -> None:
    node, begun, over = NodeThreads(wait_s=0.05), [], threading.Event()

    def hang() -> None:
        begun.append(threading.current_thread())
        over.wait()

    try:
        for _ in range(MOST_AT_ONCE + 3):
            with pytest.raises(Unavailable, match="cannot be read on the node"):
                await node.do(hang)
    finally:
        over.set()
    answer = 0
    while not answer:
        with suppress(Unavailable):  # until the threads have ended
            answer = await node.do(lambda: 7)
    assert len(begun) == MOST_AT_ONCE


async def test_a_caller_that_goes_away_gives_its_place_back_when_the_work_is_done() -> None:
    node, begun, over = NodeThreads(), threading.Semaphore(0), threading.Event()

    def work() -> None:
        begun.release()
        over.wait()

    callers = [asyncio.ensure_future(node.do(work)) for _ in range(MOST_AT_ONCE)]
    for _ in callers:
        await asyncio.to_thread(begun.acquire)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    over.set()
    assert await asyncio.gather(*(node.do(lambda: 7) for _ in range(2 * MOST_AT_ONCE))) == [7] * 2 * MOST_AT_ONCE
