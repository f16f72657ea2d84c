"""What every adapter does with a container, whatever runs it."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from multicri_slurm.environment import LONGEST_STRING_BYTES

from contract.adapters import ADAPTERS
from contract.bench import AdapterBench, eventually, everything
from multicri_proxy.api.adapter import Adapter, ContainerSpec, OutputStream, Phase
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.streams import CanAttach, CanExec, Streams

pytestmark = pytest.mark.testbed

HOSTILE_ENV = {
    "EMPTY": "",
    "SINGLE": "it's",
    "DOUBLE": 'say "hi"',
    "NEWLINES": "a\nb\n\nc\n",
    "ONLY_NEWLINE": "\n",
    "COMMAND": "$(touch /tmp/pwned) `touch /tmp/pwned` ${HOME} $HOME",
    "SEMICOLON": "; touch /tmp/pwned; ",
    "BACKSLASH": "a\\b\\n\\",
    "UNICODE": "zażółć 日本 \u200b",
    "DASHES": "--rf -x",
    "TABS": "\ta\rb\t",
    "QUOTED": "'x'",
    "CONTROL": "\x01\x1b[0m\x7f",
    "LD_PRELOAD_PATH": "/nowhere",
    "SLURM_CONF": "/nowhere",
    "SBATCH_OUTPUT": "/tmp/pwned",
    "FOO": "",
    "LONG": "x" * (LONGEST_STRING_BYTES - 5),
    "JOB_COMPLETION_INDEX": "7",
}
HOSTILE_ARGS = (
    "it's",
    'say "hi"',
    "a\nb\n",
    "a\r\nb",
    "#SBATCH --time=1\n#SBATCH --time=1",
    "$(touch /tmp/pwned) `touch /tmp/pwned` $HOME",
    "; touch /tmp/pwned",
    "zażółć 日本",
    "--rf",
    "-x",
    "",
    "*",
    "~",
    "!x",
    "a\\b",
    "--",
)
WITH_WAYS_IN = pytest.mark.parametrize("bench", [one for one in ADAPTERS if one != "slurm-rest"], indirect=True)
"""slurmrestd leads into no container."""

STUBBORN = ["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]


async def started(adapter: Adapter, spec: ContainerSpec) -> None:
    await adapter.create_container(spec)
    await adapter.start_container(spec.id)


async def until_it_says(adapter: Adapter, spec: ContainerSpec, word: bytes) -> None:
    await started(adapter, spec)
    async with asyncio.timeout(60):
        async for piece in adapter.output(spec.id, OutputStream.STDOUT, 0):
            if word in piece:
                return


async def output_of(bench: AdapterBench, command: Sequence[str] = (), args: Sequence[str] = (), **env: str) -> bytes:
    async with bench.adapter() as adapter:
        spec = bench.spec(command, args, env=env)
        await started(adapter, spec)
        output = await everything(adapter, spec.id, OutputStream.STDOUT)
        await adapter.remove_container(spec.id)
    return output


@pytest.mark.parametrize("code", [0, 3, 137])
async def test_an_exit_code_comes_through_and_nothing_is_left(bench: AdapterBench, code: int) -> None:
    async with bench.adapter() as adapter:
        spec = bench.spec(["/bin/sh", "-c", f"echo out; echo err >&2; exit {code}"])
        await started(adapter, spec)
        assert await everything(adapter, spec.id, OutputStream.STDOUT) == b"out\n"
        assert await everything(adapter, spec.id, OutputStream.STDERR) == b"err\n"
        report = await bench.report(spec.id, Phase.EXITED)
        assert (report.exit_code, report.reason) == (code, "Error" if code else "Completed")
        assert report.started_at_ns is not None
        assert report.finished_at_ns is not None
        assert report.started_at_ns <= report.finished_at_ns
        await adapter.remove_container(spec.id)
    assert bench.remains(spec) == []
    assert bench.containers_kept() == []


async def test_hostile_environment_arrives_exactly(bench: AdapterBench) -> None:
    output = await output_of(bench, ["/bin/cat", "/proc/self/environ"], **HOSTILE_ENV)
    found = dict(entry.split(b"=", 1) for entry in output.split(b"\0") if entry)
    for name, value in HOSTILE_ENV.items():
        assert found.get(name.encode()) == value.encode(), name
    assert not [name for name in found if name.startswith((b"CLUSTER_", b"JOB_CUSTOM"))]


async def test_hostile_arguments_arrive_exactly(bench: AdapterBench) -> None:
    output = await output_of(bench, ["/bin/sh", "-c", 'printf "%s\\0" "$@"', "name"], HOSTILE_ARGS)
    assert output.decode().split("\0")[:-1] == list(HOSTILE_ARGS)


async def test_the_images_own_command_runs_when_the_pod_names_none(bench: AdapterBench) -> None:
    assert await output_of(bench) == b"hello from the image\n"


async def test_a_program_that_the_image_has_not_is_told_on_stderr(bench: AdapterBench) -> None:
    async with bench.adapter() as adapter:
        spec = bench.spec(["/no/such/program"])
        await started(adapter, spec)
        stderr = await everything(adapter, spec.id, OutputStream.STDERR)
        assert (await bench.report(spec.id, Phase.EXITED)).exit_code != 0
        assert b"/no/such/program" in stderr
        await adapter.remove_container(spec.id)


async def test_output_is_read_from_an_offset_and_while_the_container_runs(bench: AdapterBench) -> None:
    async with bench.adapter() as adapter:
        spec = bench.spec(["/bin/sh", "-c", "echo 0123456789; while ! [ -e /tmp/never ]; do sleep 1; done"])
        await started(adapter, spec)
        pieces = adapter.output(spec.id, OutputStream.STDOUT, 4)
        assert await anext(pieces) == b"456789\n"
        assert (await bench.report(spec.id, Phase.RUNNING)).started_at_ns is not None
        await adapter.remove_container(spec.id)
        assert [piece async for piece in pieces] == []
    assert bench.remains(spec) == []


async def test_much_output_arrives_whole(bench: AdapterBench) -> None:
    output = await output_of(bench, ["/bin/sh", "-c", "seq 1 400000"])
    assert output == "".join(f"{n}\n" for n in range(1, 400_001)).encode()


async def test_a_handler_of_term_decides_the_exit_code(bench: AdapterBench) -> None:
    async with bench.adapter() as adapter:
        spec = bench.spec(["/bin/sh", "-c", "trap 'echo bye; exit 21' TERM; echo up; while :; do sleep 0.1; done"])
        await until_it_says(adapter, spec, b"up")
        report = await adapter.stop_container(spec.id, 30)
        assert (report.phase, report.exit_code) == (Phase.EXITED, 21)
        assert await everything(adapter, spec.id, OutputStream.STDOUT) == b"up\nbye\n"
        assert await adapter.stop_container(spec.id, 30) == report
        await adapter.remove_container(spec.id)
    assert bench.remains(spec) == []


@pytest.mark.parametrize("grace_period_s", [0, 2])
async def test_who_ignores_term_is_killed_after_the_grace_period_or_at_once(
    bench: AdapterBench, grace_period_s: int
) -> None:
    async with bench.adapter() as adapter:
        spec = bench.spec(STUBBORN)
        await until_it_says(adapter, spec, b"up")
        before = time.monotonic()
        report = await adapter.stop_container(spec.id, grace_period_s)
        assert time.monotonic() - before >= grace_period_s
        assert (report.exit_code, report.reason) == (137, "Error")
        await adapter.remove_container(spec.id)
    assert bench.remains(spec) == []


async def test_removing_a_running_container_ends_it(bench: AdapterBench) -> None:
    async with bench.adapter() as adapter:
        spec = bench.spec(STUBBORN)
        await until_it_says(adapter, spec, b"up")
        await adapter.remove_container(spec.id)
        await adapter.remove_container(spec.id)
    assert bench.remains(spec) == []
    assert bench.containers_kept() == []


async def test_a_container_that_was_never_started_can_be_stopped_and_removed(bench: AdapterBench) -> None:
    async with bench.adapter() as adapter:
        spec = bench.spec(["/bin/true"])
        await adapter.create_container(spec)
        assert (await adapter.stop_container(spec.id, 30)).phase is Phase.EXITED
        await adapter.start_container(spec.id)
        await adapter.remove_container(spec.id)
    assert bench.remains(spec) == []


async def test_a_second_start_starts_nothing_more(bench: AdapterBench) -> None:
    async with bench.adapter() as adapter:
        spec = bench.spec(["/bin/echo", "once"])
        await adapter.create_container(spec)
        await asyncio.gather(*(adapter.start_container(spec.id) for _ in range(5)))
        await adapter.start_container(spec.id)
        assert await everything(adapter, spec.id, OutputStream.STDOUT) == b"once\n"
        await adapter.start_container(spec.id)
        assert await everything(adapter, spec.id, OutputStream.STDOUT) == b"once\n"
        await adapter.remove_container(spec.id)


async def test_a_restart_takes_up_running_containers(bench: AdapterBench) -> None:
    spec = bench.spec(["/bin/sh", "-c", "echo up; while ! [ -e /tmp/x ]; do sleep 0.1; done"])
    async with bench.adapter() as adapter:
        await started(adapter, spec)
        await bench.report(spec.id, Phase.RUNNING)
    bench.reports.clear()
    async with bench.adapter() as adapter:
        await bench.report(spec.id, Phase.RUNNING)
        assert await anext(adapter.output(spec.id, OutputStream.STDOUT, 0)) == b"up\n"
        assert (await adapter.stop_container(spec.id, 5)).phase is Phase.EXITED
    bench.reports.clear()
    async with bench.adapter() as adapter:
        await bench.report(spec.id, Phase.EXITED)
        await adapter.remove_container(spec.id)
    assert bench.remains(spec) == []


async def test_what_nobody_knows_any_more_after_a_restart_is_cleaned_up(bench: AdapterBench) -> None:
    spec = bench.spec(STUBBORN)
    async with bench.adapter() as adapter:
        await until_it_says(adapter, spec, b"up")
    bench.known.clear()
    async with bench.adapter():

        async def clean() -> bool:
            return not bench.containers_kept()

        await eventually(clean, "nothing is left")
    assert bench.remains(spec) == []


async def test_a_creation_that_is_cancelled_leaves_nothing(bench: AdapterBench) -> None:
    async with bench.adapter() as adapter:
        first = bench.spec(["/bin/true"])
        await adapter.create_container(first)  # the way there is open, and the image is built
        spec = bench.spec(["/bin/true"])
        creation = asyncio.ensure_future(adapter.create_container(spec))
        await bench.store.written(spec.id).wait()
        creation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creation

        async def clean() -> bool:
            return spec.id not in bench.store.rows

        await eventually(clean, "the record is gone")
        assert bench.remains(spec) == []
        await adapter.remove_container(first.id)


class Written:
    def __init__(self) -> None:
        self.data = b""
        self.changed = asyncio.Event()

    async def write(self, data: bytes) -> None:
        self.data += data
        self.changed.set()


class Typed:
    """One text, and then its end."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    async def read(self, max_bytes: int) -> bytes:
        text, self._text = self._text[:max_bytes], self._text[max_bytes:]
        return text


@WITH_WAYS_IN
async def test_a_command_runs_in_a_container_that_runs_and_in_no_other(bench: AdapterBench) -> None:
    async with bench.adapter() as adapter:
        assert isinstance(adapter, CanExec)
        spec = bench.spec(["/bin/sh", "-c", "echo own >/tmp/own; echo up; sleep 600"], env={"OWN": "a 'b'"})
        await until_it_says(adapter, spec, b"up")
        stdout, stderr = Written(), Written()
        command = ["sh", "-c", 'cat; cat /tmp/own; echo "$OWN"; echo err >&2; exit 7']
        streams = Streams(stdin=Typed(b"typed\n"), stdout=stdout, stderr=stderr)
        assert await eventually(lambda: _exec(adapter, spec, command, streams), "it can be entered") == 7
        assert (stdout.data, stderr.data) == (b"typed\nown\na 'b'\n", b"err\n")
        await adapter.stop_container(spec.id, 0)
        with pytest.raises(FailedPrecondition):
            await adapter.exec(spec.id, ["true"], Streams())
        await adapter.remove_container(spec.id)


async def _exec(adapter: CanExec, spec: ContainerSpec, command: Sequence[str], streams: Streams) -> int | None:
    try:
        return await adapter.exec(spec.id, command, streams)
    except FailedPrecondition:  # it says "up" before Slurm says that it runs
        return None


@WITH_WAYS_IN
async def test_who_attaches_sees_what_comes_from_then_on_until_the_end(bench: AdapterBench) -> None:
    async with bench.adapter() as adapter:
        assert isinstance(adapter, CanAttach)
        ticks = "echo up; while ! [ -e /tmp/go ]; do echo tick; sleep 0.2; done; echo last; exit 3"
        spec = bench.spec(["/bin/sh", "-c", ticks])
        await until_it_says(adapter, spec, b"up")
        await bench.report(spec.id, Phase.RUNNING)
        stdout = Written()
        attached = asyncio.ensure_future(adapter.attach(spec.id, Streams(stdout=stdout)))
        async with asyncio.timeout(60):
            await stdout.changed.wait()
            assert isinstance(adapter, CanExec)
            # it may be over before the command that ends it is: then the command is killed
            await eventually(lambda: _exec(adapter, spec, ["touch", "/tmp/go"], Streams()), "it can be entered")
            await attached
        assert set(stdout.data.splitlines()) == {b"tick", b"last"}
        assert (await bench.report(spec.id, Phase.EXITED)).exit_code == 3
        await adapter.remove_container(spec.id)
