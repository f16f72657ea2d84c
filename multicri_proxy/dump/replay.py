"""Sends recorded requests to a runtime, with ids mapped from its replies, and compares what it answers."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from multicri_proxy.calls import Call, CallFailed, Runtime
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.dump.compare import differences, with_new_ids
from multicri_proxy.dump.record import Kind, Record
from multicri_proxy.dump.redact import REDACTED
from multicri_proxy.dump.schema import decoded, types_of
from multicri_proxy.methods import METHODS, Merge

_GIVES_ID = {"RunPodSandbox": "pod_sandbox_id", "CreateContainer": "container_id"}


@dataclass(slots=True, kw_only=True)
class Recorded:
    """One call, whole. requests: usually one. request_unknown: its bytes were not kept. code: "" if never answered."""

    call_id: str
    path: str
    time_ns: int
    requests: list[bytes] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    code: str = ""
    timeout_s: float | None = None
    request_unknown: bool = False
    reply_unknown: bool = False

    @property
    def method(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a call. code: "" if it was not sent. differences: how the answer differs from the recorded one."""

    recorded: Recorded
    code: str = ""
    differences: tuple[str, ...] = ()
    skipped: str = ""


def calls_in(records: Iterable[Record]) -> list[Recorded]:
    """Calls in the order in which they began: none that needs another's answer comes before it."""
    found: dict[str, Recorded] = {}
    for record in records:
        if record.kind in {Kind.DROPPED, Kind.WAITING}:
            continue
        key = record.call_id
        call = found.get(key)
        if call is None:
            call = found[key] = Recorded(
                call_id=key, path=record.path, time_ns=record.time_ns, timeout_s=record.timeout_s
            )
        if record.kind in {Kind.CALL, Kind.REQUEST}:
            if record.request is None:
                call.request_unknown = True
            else:
                call.requests.append(record.request)
        if record.kind is Kind.REPLY or (record.kind is Kind.CALL and record.code == "OK"):
            if record.reply is None:
                call.reply_unknown = True
            else:
                call.replies.append(record.reply)
        if record.kind in {Kind.CALL, Kind.END}:
            call.code = record.code
    return sorted(found.values(), key=lambda call: call.time_ns)


class Replay:
    """Sends calls one after the other. ids: what recorded ids are called by the runtime that is asked now."""

    def __init__(self, runtime: Runtime, *, timeout_s: float) -> None:
        self.ids: dict[str, str] = {}
        self._runtime = runtime
        self._timeout_s = timeout_s

    async def outcomes(self, calls: Iterable[Recorded]) -> AsyncIterator[Outcome]:
        for call in calls:
            yield await self._outcome(call)

    async def _outcome(self, recorded: Recorded) -> Outcome:
        if skipped := _why_not(recorded):
            return Outcome(recorded=recorded, skipped=skipped)
        requests = [self._new_request(recorded.path, data) for data in recorded.requests]
        call = Call(
            path=recorded.path,
            request=requests[0],
            timeout_s=min(recorded.timeout_s or self._timeout_s, self._timeout_s),
        )
        replies: list[bytes] = []
        try:
            async with asyncio.timeout(self._timeout_s + 1):
                await self._send(call, requests, replies)
            code = "OK"
        except CallFailed as failure:
            code = failure.code.name
        except TimeoutError:
            code = "DEADLINE_EXCEEDED"
        self._learn_id(recorded, replies)
        return Outcome(recorded=recorded, code=code, differences=tuple(self._differences(recorded, code, replies)))

    async def _send(self, call: Call, requests: list[bytes], replies: list[bytes]) -> None:
        method = METHODS.get(call.path)
        if method and not method.streaming:
            replies.append((await self._runtime.call(call)).message)
            return
        stream = await self._runtime.stream(call) if method else await self._runtime.relay(call, _each(requests))
        replies.extend([message async for message in stream])

    def _new_request(self, path: str, data: bytes) -> bytes:
        types = types_of(path)
        request = decoded(types.request, data) if types else None
        if request is None:
            return data
        new = with_new_ids(request, self.ids)
        _drop_redacted_auth(new)
        return data if new == request else new.SerializeToString()

    def _learn_id(self, recorded: Recorded, replies: list[bytes]) -> None:
        name, types = _GIVES_ID.get(recorded.method), types_of(recorded.path)
        if not (name and types and replies and recorded.replies):
            return
        old, new = (decoded(types.reply, data) for data in (recorded.replies[0], replies[0]))
        if old is not None and new is not None:
            self.ids[getattr(old, name)] = getattr(new, name)

    def _differences(self, recorded: Recorded, code: str, replies: list[bytes]) -> Iterator[str]:
        if recorded.code and recorded.code != code:
            yield f"status: {recorded.code} → {code}"
            return
        if recorded.reply_unknown or code != "OK" or not recorded.code:
            return
        types = types_of(recorded.path)
        old, new = b"".join(recorded.replies), b"".join(replies)
        before, after = (decoded(types.reply, data) if types else None for data in (old, new))
        if before is not None and after is not None:
            yield from differences(before, after, self.ids)
        elif old != new:
            yield f"{len(old)} bytes → {len(new)} other bytes"


def _why_not(recorded: Recorded) -> str:
    method = METHODS.get(recorded.path)
    if method and method.merge is Merge.UNTIL_ANY_ENDS:
        return "it never ends"
    if recorded.request_unknown:
        return "its request was not recorded"
    if not recorded.requests:
        return "its beginning was not recorded"
    return ""


def _drop_redacted_auth(request: Message) -> None:
    """Ask without credentials rather than with wrong ones."""
    if isinstance(request, cri.PullImageRequest) and any(value == REDACTED for _, value in request.auth.ListFields()):
        request.ClearField("auth")


async def _each(messages: list[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def table(outcomes: Iterable[Outcome], *, compare: bool) -> Iterator[str]:
    """A line for each call, differences below it."""
    for outcome in outcomes:
        recorded = outcome.recorded
        if outcome.skipped:
            yield f"{'skipped':<10} {recorded.method:<28} {outcome.skipped}"
            continue
        verdict = ("differs" if outcome.differences else "same") if compare else "sent"
        yield f"{verdict:<10} {recorded.method:<28} {outcome.code}"
        if compare:
            for line in outcome.differences:
                yield f"{'':<10} {line}"


def summary(outcomes: Iterable[Outcome], ids: Mapping[str, str], *, compare: bool) -> str:
    counts: dict[str, int] = defaultdict(int)
    for outcome in outcomes:
        counts["skipped" if outcome.skipped else "sent"] += 1
        counts["different"] += bool(outcome.differences)
    text = f"{counts['sent']} calls sent, {counts['skipped']} skipped, {len(ids)} ids mapped"
    return f"{text}, {counts['different']} differ" if compare else text
