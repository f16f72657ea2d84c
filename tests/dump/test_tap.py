"""What the tap records of calls, and that calls never notice."""

import asyncio
import threading
from collections.abc import AsyncIterator

import grpc
import pytest

from dump.doubles import RUNTIME, Collected, ScriptedRuntime, ScriptedStream, collecting, formatter
from multicri_proxy.calls import Call, CallFailed, Reply
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.dumper import Dumper, Listener
from multicri_proxy.dump.record import Kind, Record
from multicri_proxy.dump.tap import Tap, note_changed_request

VERSION = f"{RUNTIME}Version"
START = f"{RUNTIME}StartContainer"
EVENTS = f"{RUNTIME}GetContainerEvents"
LIST_STREAM = f"{RUNTIME}StreamContainers"
NO_PROTOBUF = b"\xff\xff\xff no message"


def version_call() -> Call:
    return Call(path=VERSION, request=cri.VersionRequest(version="0.1.0").SerializeToString())


@pytest.fixture
def runtime() -> ScriptedRuntime:
    return ScriptedRuntime()


@pytest.fixture
def dumper() -> Dumper:
    return Dumper()


@pytest.fixture
def tap(runtime: ScriptedRuntime, dumper: Dumper) -> Tap:
    return Tap(runtime, dumper)


async def test_when_nobody_listens_a_call_is_the_runtimes_own_coroutine(tap: Tap, runtime: ScriptedRuntime) -> None:
    runtime.answer(VERSION, NO_PROTOBUF)
    coroutine = tap.call(Call(path=VERSION, request=NO_PROTOBUF))
    assert coroutine.__qualname__ == "ScriptedRuntime.call"  # type: ignore[attr-defined]
    assert (await coroutine).message is NO_PROTOBUF
    runtime.streams[LIST_STREAM] = stream = ScriptedStream()
    assert await tap.stream(Call(path=LIST_STREAM, request=NO_PROTOBUF)) is stream


async def test_when_nobody_listens_nothing_is_decoded_and_no_thread_runs(tap: Tap, runtime: ScriptedRuntime) -> None:
    runtime.answer(VERSION, NO_PROTOBUF)
    before = threading.active_count()
    reply = await tap.call(Call(path=VERSION, request=NO_PROTOBUF))
    assert (reply.message, runtime.asked[0].request) == (NO_PROTOBUF, NO_PROTOBUF)
    assert threading.active_count() == before


async def test_a_call_is_recorded_with_its_answer(tap: Tap, runtime: ScriptedRuntime, dumper: Dumper) -> None:
    answer = cri.VersionResponse(runtime_name="containerd").SerializeToString()
    runtime.answer(VERSION, answer, trailing_metadata=(("a", "b"),))
    call = Call(path=VERSION, request=b"\n\x01x", metadata=(("who", "kubelet"),), timeout_s=5.0)
    async with collecting(dumper) as collected:
        reply = await tap.call(call)
    assert reply.message is answer
    (record,) = collected.records
    assert (record.kind, record.path, record.owner, record.code) == (Kind.CALL, VERSION, "default", "OK")
    assert (record.request, record.reply, record.request_size, record.reply_size) == (b"\n\x01x", answer, 3, 12)
    assert (record.metadata, record.trailing_metadata) == ((("who", "kubelet"),), (("a", "b"),))
    assert record.timeout_s == 5.0
    assert 0 < record.latency_ns < 10**9


async def test_a_failure_is_recorded_and_passed_on(tap: Tap, dumper: Dumper) -> None:
    async with collecting(dumper) as collected:
        with pytest.raises(CallFailed):
            await tap.call(version_call())
    (record,) = collected.records
    assert (record.code, record.details, record.owner, record.reply) == ("NOT_FOUND", "not here", "default", None)


@pytest.mark.parametrize(("timeout_s", "code"), [(None, "CANCELLED"), (0.0, "DEADLINE_EXCEEDED")])
async def test_a_call_that_is_given_up_says_why(
    tap: Tap, runtime: ScriptedRuntime, dumper: Dumper, timeout_s: float | None, code: str
) -> None:
    async def never(call: Call) -> Reply:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    begun = asyncio.Event()
    runtime.answers[VERSION] = never
    async with collecting(dumper) as collected:
        task = asyncio.ensure_future(tap.call(Call(path=VERSION, request=b"", timeout_s=timeout_s)))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [record.code for record in collected.records] == [code]


async def test_a_defect_of_a_runtime_is_passed_on_too(tap: Tap, runtime: ScriptedRuntime, dumper: Dumper) -> None:
    async def broken(call: Call) -> Reply:
        raise ValueError("with a secret in it")

    runtime.answers[VERSION] = broken
    async with collecting(dumper) as collected:
        with pytest.raises(ValueError, match="secret"):
            await tap.call(version_call())
    assert [(record.code, record.details) for record in collected.records] == [("UNKNOWN", "ValueError")]


async def test_a_call_without_an_answer_is_told_of_after_a_second(
    tap: Tap, runtime: ScriptedRuntime, dumper: Dumper
) -> None:
    async def slow(call: Call) -> Reply:
        while "waiting" not in collected.text:
            await asyncio.sleep(0.02)
        return Reply(message=b"")

    runtime.answers[VERSION] = slow
    async with collecting(dumper) as collected:
        await asyncio.wait_for(tap.call(version_call()), 60)
    waiting, answered = collected.records
    assert (waiting.kind, answered.kind) == (Kind.WAITING, Kind.CALL)
    assert waiting.call_id == answered.call_id
    assert waiting.request == answered.request == version_call().request


async def test_methods_that_are_off_are_not_recorded(tap: Tap, runtime: ScriptedRuntime, dumper: Dumper) -> None:
    runtime.answer(VERSION)
    runtime.answer(START)
    async with collecting(dumper, "full:Start.*") as collected:
        coroutine = tap.call(version_call())
        await coroutine
        await tap.call(Call(path=START, request=b""))
    assert [record.method for record in collected.records] == ["StartContainer"]


async def test_lists_at_level_name_are_counted_and_not_kept(tap: Tap, runtime: ScriptedRuntime, dumper: Dumper) -> None:
    path = f"{RUNTIME}ListContainers"
    runtime.answer(path, b"\n\x00" * 1000)
    async with collecting(dumper, "short:.*") as collected:
        await tap.call(Call(path=path, request=b""))
    (record,) = collected.records
    assert (record.reply, record.reply_size) == (None, 2000)


async def test_what_a_policy_changed_is_recorded_beside_the_request(
    tap: Tap, runtime: ScriptedRuntime, dumper: Dumper
) -> None:
    async def policy(call: Call) -> Reply:
        # policies have time limits, and so tasks, of their own
        async def decide() -> None:
            note_changed_request(b"\n\x01b")

        await asyncio.create_task(decide())
        return Reply(message=b"")

    runtime.answers[VERSION] = policy
    await tap.call(Call(path=VERSION, request=b"\n\x01a"))
    async with collecting(dumper) as collected:
        await tap.call(Call(path=VERSION, request=b"\n\x01a"))
    (record,) = collected.records
    assert (record.request, record.changed_request) == (b"\n\x01a", b"\n\x01b")


def test_a_policy_outside_of_a_call_may_note_what_it_likes() -> None:
    note_changed_request(b"")


async def read(stream: AsyncIterator[bytes]) -> list[bytes]:
    return [message async for message in stream]


async def test_each_message_of_a_stream_is_recorded_under_one_call_id(
    tap: Tap, runtime: ScriptedRuntime, dumper: Dumper
) -> None:
    runtime.streams[LIST_STREAM] = ScriptedStream(b"", b"\n\x00")
    async with collecting(dumper) as collected:
        stream = await tap.stream(Call(path=LIST_STREAM, request=b""))
        assert await stream.initial_metadata() == (("initial", "1"),)
        assert await read(aiter(stream)) == [b"", b"\n\x00"]
        assert await stream.trailing_metadata() == (("trailing", "2"),)
    kinds = [record.kind for record in collected.records]
    assert kinds == [Kind.REQUEST, Kind.REPLY, Kind.REPLY, Kind.END]
    assert len({record.call_id for record in collected.records}) == 1
    assert [record.code for record in collected.records] == ["", "", "", "OK"]


async def test_the_way_a_stream_fails_is_recorded(tap: Tap, runtime: ScriptedRuntime, dumper: Dumper) -> None:
    failure = CallFailed(grpc.StatusCode.UNAVAILABLE, "gone", owner="default")
    runtime.streams[LIST_STREAM] = ScriptedStream(b"", failure=failure)
    async with collecting(dumper) as collected:
        stream = await tap.stream(Call(path=LIST_STREAM, request=b""))
        with pytest.raises(CallFailed) as raised:
            await read(aiter(stream))
    assert raised.value is failure
    assert collected.records[-1].kind is Kind.END
    assert collected.records[-1].code == "UNAVAILABLE"


async def test_a_stream_that_its_reader_leaves_is_cancelled(tap: Tap, runtime: ScriptedRuntime, dumper: Dumper) -> None:
    runtime.streams[EVENTS] = inner = ScriptedStream(b"", endless=True)
    async with collecting(dumper) as collected:
        stream = await tap.stream(Call(path=EVENTS, request=b""))
        assert await anext(aiter(stream)) == b""
        stream.cancel()
        stream.cancel()
    assert inner.cancelled
    assert [record.code for record in collected.records if record.kind is Kind.END] == ["CANCELLED"]


async def test_events_are_recorded_by_those_who_attach_after_the_kubelet_subscribed(
    tap: Tap, runtime: ScriptedRuntime, dumper: Dumper
) -> None:
    runtime.streams[EVENTS] = ScriptedStream(b"\n\x01a", b"\n\x01b", b"\n\x01c")
    events = aiter(await tap.stream(Call(path=EVENTS, request=b"")))
    assert await anext(events) == b"\n\x01a"
    async with collecting(dumper) as collected:
        assert await anext(events) == b"\n\x01b"
    assert await anext(events) == b"\n\x01c"
    assert [record.reply for record in collected.records] == [b"\n\x01b"]


async def test_a_relayed_call_is_recorded_in_both_directions(tap: Tap, dumper: Dumper) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    call = Call(path="/next.year.Service/New", request=b"")
    assert await read(aiter(await tap.relay(call, requests()))) == [b"one", b"two"]
    async with collecting(dumper) as collected:
        assert await read(aiter(await tap.relay(call, requests()))) == [b"one", b"two"]
    found = [(record.kind.value, record.request or record.reply) for record in collected.records]
    assert found == [
        ("request", b"one"),
        ("request", b"two"),
        ("reply", b"one"),
        ("reply", b"two"),
        ("end", None),
    ]


async def test_calls_go_on_while_a_sink_is_stuck_and_what_it_misses_is_counted_and_told(
    tap: Tap, runtime: ScriptedRuntime, dumper: Dumper, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.answer(VERSION)
    sink = Collected()
    sink.stuck.set()
    listener = Listener("a stuck test", formatter(), sink, most_records=10)
    async with dumper.listening(listener):
        await asyncio.wait_for(asyncio.gather(*(tap.call(version_call()) for _ in range(100))), 60)
        await asyncio.to_thread(sink.entered.wait, 60)
        assert listener.dropped == dumper.dropped == 90
        sink.release()
        while len(sink.text.splitlines()) < 10:
            await asyncio.sleep(0.01)
        await tap.call(version_call())
    dropped = [record for record in sink.records if record.kind is Kind.DROPPED]
    assert sum(record.records for record in dropped) == 90
    assert dumper.dropped == 90
    # the event loop never logs it: stderr may be the very pipe that is stuck
    assert [line.threadName for line in caplog.records] == ["dump to a stuck test"]


async def test_large_messages_fill_the_queue_by_their_bytes(tap: Tap, runtime: ScriptedRuntime, dumper: Dumper) -> None:
    runtime.answer(VERSION, b"\n\x01x" * 1000)
    sink = Collected()
    sink.stuck.set()
    listener = Listener("a stuck test", formatter(), sink, most_bytes=10_000)
    async with dumper.listening(listener):
        for _ in range(5):
            await tap.call(version_call())
        assert listener.dropped == 3
        sink.release()


async def test_a_sink_that_fails_loses_records_and_no_calls(
    tap: Tap, runtime: ScriptedRuntime, dumper: Dumper, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.answer(VERSION)
    sink = Collected()
    sink.failure = OSError(28, "No space left on device")
    listener = Listener("a full disk", formatter(), sink)
    async with dumper.listening(listener):
        for _ in range(3):
            await tap.call(version_call())
        while listener.dropped < 3:
            await asyncio.sleep(0.01)
        sink.failure = None
        await tap.call(version_call())
    assert [record.records for record in sink.records] == [3, 0]
    assert [line.getMessage().partition(" to=")[0] for line in caplog.records] == [
        "dump records are dropped: they cannot be written or formatted",
    ]


async def test_a_record_that_cannot_be_formatted_is_dropped_and_the_defect_logged_once(
    tap: Tap, runtime: ScriptedRuntime, dumper: Dumper, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        wants = wants_messages = staticmethod(lambda path: True)

        def text(self, record: object) -> str:
            raise RuntimeError("a defect")

        def close(self) -> None: ...

    runtime.answer(VERSION)
    listener = Listener("a broken test", Broken(), Collected())
    async with dumper.listening(listener):
        for _ in range(3):
            await tap.call(version_call())
    assert dumper.dropped == 3
    assert [line.getMessage() for line in caplog.records] == [
        'dump records are dropped: they cannot be formatted to="a broken test"'
    ]


async def test_a_defect_of_the_dumper_breaks_no_call(
    tap: Tap, runtime: ScriptedRuntime, dumper: Dumper, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Listener):
        def offer(self, record: Record, size_bytes: int) -> None:
            raise RuntimeError("a defect")

    runtime.answer(VERSION, b"answer")
    async with dumper.listening(Broken("a broken test", formatter(), Collected())):
        assert (await tap.call(version_call())).message == b"answer"
    assert [line.getMessage() for line in caplog.records] == ["a dump record is lost"]


async def test_those_who_leave_leave_nothing_behind(tap: Tap, runtime: ScriptedRuntime, dumper: Dumper) -> None:
    runtime.answer(VERSION)
    async with collecting(dumper):
        await tap.call(version_call())
        assert len(dumper.listeners) == 1
    assert not dumper.listeners
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("dump")] == []


async def test_methods_that_a_client_makes_up_do_not_fill_the_memory(dumper: Dumper) -> None:
    async with collecting(dumper):
        for number in range(5000):
            assert dumper.wants(f"/made.up.Service/Method{number}")
        assert len(dumper._needs) <= 1000
