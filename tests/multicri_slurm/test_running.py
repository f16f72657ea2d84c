"""Containers that run to their end, in the real cluster."""

import pytest
from multicri_slurm.environment import LONGEST_STRING_BYTES
from slurm_bench import BOTH_WAYS, Bench, everything

from multicri_proxy.api.adapter import OutputStream, Phase
from multicri_proxy.api.errors import InvalidArgument

pytestmark = [pytest.mark.testbed, BOTH_WAYS]

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
USERS = ("alice", "bob")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("code", [0, 3, 137])
async def test_an_exit_code_comes_through(bench: Bench, user: str, code: int) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", f"echo out; echo err >&2; exit {code}"], user=user)
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"out\n"
        assert await everything(slurm, spec.id, OutputStream.STDERR) == b"err\n"
        report = await bench.report(spec.id, Phase.EXITED)
        assert (report.exit_code, report.reason) == (code, "Error" if code else "Completed")
        assert report.started_at_ns is not None
        assert report.finished_at_ns is not None
        assert report.started_at_ns <= report.finished_at_ns
        await slurm.remove_container(spec.id)
    assert bench.home_files(user, spec.pod.sandbox_id) == []
    assert bench.containers_kept() == []


@pytest.mark.parametrize("user", USERS)
async def test_hostile_environment_arrives_exactly(bench: Bench, user: str) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/cat", "/proc/self/environ"], user=user, env=HOSTILE_ENV)
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        output = await everything(slurm, spec.id, OutputStream.STDOUT)
        await slurm.remove_container(spec.id)
    found = dict(entry.split(b"=", 1) for entry in output.split(b"\0") if entry)
    for name, value in HOSTILE_ENV.items():
        assert found.get(name.encode()) == value.encode(), name
    assert not [name for name in found if name.startswith((b"CLUSTER_", b"JOB_CUSTOM"))]


@pytest.mark.parametrize("user", USERS)
async def test_hostile_arguments_arrive_exactly(bench: Bench, user: str) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", 'printf "%s\\0" "$@"', "name"], HOSTILE_ARGS, user=user)
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        output = await everything(slurm, spec.id, OutputStream.STDOUT)
        await slurm.remove_container(spec.id)
    assert output.decode().split("\0")[:-1] == list(HOSTILE_ARGS)


@pytest.mark.parametrize("user", USERS)
async def test_the_images_own_command_runs_when_the_pod_names_none(bench: Bench, user: str) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(user=user)
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"hello from the image\n"
        await slurm.remove_container(spec.id)


@pytest.mark.parametrize("user", USERS)
async def test_working_directory_and_home_are_the_pods_and_the_accounts_home_is_not_seen(
    bench: Bench, user: str
) -> None:
    (bench.bed.cluster.user(user).home / "private").write_text("private")
    async with bench.adapter() as slurm:
        spec = bench.spec(
            ["/bin/sh", "-c", f'pwd; echo "$HOME"; ls /home/{user}; touch /written && echo written'],
            user=user,
            env={"HOME": "/var"},
            working_dir="/usr",
        )
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        output = await everything(slurm, spec.id, OutputStream.STDOUT)
        await slurm.remove_container(spec.id)
    assert output == b"/usr\n/var\nwritten\n"


async def test_prerun_text_is_sourced_before_the_container(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        prerun = "set -e\necho 'from the prerun'\ncd /\ntouch ~/prerun-ran"
        spec = bench.spec(["/bin/echo", "container"], cluster={"CLUSTER_CONFIG": prerun})
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"container\n"
        await slurm.remove_container(spec.id)
    bench.bed.cluster.user("alice").home.joinpath("prerun-ran").unlink()


@pytest.mark.parametrize(("prerun", "code"), [("echo broken >&2; exit 7", 7), ("false", 1), ("exit 0", 1)])
async def test_a_prerun_that_fails_is_told_with_its_words(bench: Bench, prerun: str, code: int) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "container"], cluster={"CLUSTER_CONFIG": prerun})
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        report = await bench.report(spec.id, Phase.EXITED)
        stderr = await everything(slurm, spec.id, OutputStream.STDERR)
        assert (report.exit_code, report.reason) == (code, "PrerunFailed")
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b""
        if "broken" in prerun:
            assert b"broken" in stderr
            assert "broken" in report.message
            again = await everything(slurm, spec.id, OutputStream.STDERR, offset=3)
            assert again == stderr[3:]
        await slurm.remove_container(spec.id)


async def test_a_program_that_the_image_has_not_is_told_on_stderr(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/no/such/program"])
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        stderr = await everything(slurm, spec.id, OutputStream.STDERR)
        report = await bench.report(spec.id, Phase.EXITED)
        assert report.exit_code != 0
        assert b"/no/such/program" in stderr
        await slurm.remove_container(spec.id)


async def test_output_is_read_from_an_offset_and_while_the_container_runs(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", "echo 0123456789; while ! [ -e /tmp/never ]; do sleep 1; done"])
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        pieces = slurm.output(spec.id, OutputStream.STDOUT, 4)
        assert await anext(pieces) == b"456789\n"
        running = await bench.report(spec.id, Phase.RUNNING)
        assert running.started_at_ns is not None
        await slurm.remove_container(spec.id)
        assert [piece async for piece in pieces] == []
    assert bench.home_files("alice", spec.pod.sandbox_id) == []


async def test_much_output_arrives_whole(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", "seq 1 400000"])
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        output = await everything(slurm, spec.id, OutputStream.STDOUT)
        assert output == "".join(f"{n}\n" for n in range(1, 400_001)).encode()
        await slurm.remove_container(spec.id)


async def test_what_a_runtime_cannot_carry_is_refused_before_anything_is_touched(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        for env in ({"A": "a\r\nb"}, {"A.B": "1"}, {"IFS": "x"}, {"A": b"\xff"}):
            spec = bench.spec(["/bin/true"], env=env)
            with pytest.raises(InvalidArgument, match="Apptainer"):
                await slurm.create_container(spec)
            assert bench.home_files("alice", spec.pod.sandbox_id) == []
    assert bench.containers_kept() == []


async def test_a_time_limit_ends_a_container_with_its_reason(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/sh", "-c", "echo up; sleep 1000"])
        await slurm.create_container(spec)
        await slurm.start_container(spec.id)
        assert await anext(slurm.output(spec.id, OutputStream.STDOUT, 0)) == b"up\n"
        job_id = (await slurm.details(spec.id))["job_id"]
        ends_now = ["scontrol", "update", f"jobid={job_id}", "EndTime=now"]  # a minute is the least to be asked for
        bench.bed.cluster.run("login", ends_now, check=True)
        report = await bench.report(spec.id, Phase.EXITED, within_s=180)
        assert (report.exit_code, report.reason) == (143, "DeadlineExceeded")
        assert b"DUE TO TIME LIMIT" in await everything(slurm, spec.id, OutputStream.STDERR)
        await slurm.remove_container(spec.id)
