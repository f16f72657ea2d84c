"""A pod's life on the node, through the proxy, as root's daemon and as an ordinary user's."""

import asyncio
import base64
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from kubelet.client import read_log
from node_processes import processes_with

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

HOSTILE = [
    "plain",
    "",
    " two  words ",
    "'single' \"double\" `id` $(id) ${HOME} $HOME ; id & | > /tmp/x < y",
    "\\ \\n \t tab \x01\x7f",
    "-n --flag=1",
    "../../etc/passwd",
    "näh 漢字 🚀",
    "%j %A {{x}} *?[a-z]",
    "one\ntwo\n\n'three'\n",
]


async def test_a_pod_runs_from_pull_to_removal(kubelet: Kubelet, image: str) -> None:
    before = time.time_ns()
    image_id = await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("life", handler="multicri")
    script = 'echo "FOO=$FOO $(id -u):$(id -g) $$"; echo to stderr >&2; exit 3'
    container = await kubelet.create_container(pod, image_id, command=["sh", "-c", script])
    assert (await kubelet.status(container)).state == cri.CONTAINER_CREATED
    await kubelet.start(container)
    status = await kubelet.wait_until_exited(container)
    assert (status.exit_code, status.reason) == (3, "Error")
    assert before < status.created_at <= status.started_at <= status.finished_at < time.time_ns()
    assert read_log(pod, stream="stdout") == ["FOO=fromimage 0:0 1\n"]
    assert read_log(pod, stream="stderr") == ["to stderr\n"]


async def test_a_hostile_pod_gets_exactly_its_text(kubelet: Kubelet, image: str) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("hostile", handler="multicri")
    script = 'for word; do printf "%s" "$word" | base64 | tr -d "\\n"; echo; done; env -0 | base64 | tr -d "\\n"'
    env = {f"TEXT_{number}": text for number, text in enumerate(HOSTILE)}
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script, "sh"], args=HOSTILE, env=env)
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    *words, environment = (_decoded(line) for line in read_log(pod, stream="stdout"))
    assert words == HOSTILE
    seen = dict(entry.split("=", 1) for entry in environment.split("\0") if entry)
    assert {name: seen.get(name) for name in env} == env


def _decoded(line: str) -> str:
    return base64.b64decode(line).decode("utf-8", "surrogateescape")


async def test_an_images_entrypoint_arguments_directory_and_user_are_honoured(kubelet: Kubelet, tool: str) -> None:
    await kubelet.pull(tool)
    pod = await kubelet.run_pod_sandbox("tool", handler="multicri")
    container = await kubelet.create_container(pod, tool, args=["one", "two words"])
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    assert read_log(pod) == ["in /var/tool, TOOL=of the image\n", "<one>\n", "<two words>\n"]


async def test_a_directory_that_is_not_there_is_made(kubelet: Kubelet, tool: str) -> None:
    await kubelet.pull(tool)
    pod = await kubelet.run_pod_sandbox("cwd", handler="multicri")
    script = ["sh", "-c", 'echo "$PWD $(id -u):$(id -g)"']
    container = await kubelet.create_container(pod, tool, command=script, working_dir="/new/place")
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    assert read_log(pod) == ["/new/place 65534:65534\n"]


async def test_stop_gives_the_container_its_grace_and_takes_its_own_exit_code(kubelet: Kubelet, image: str) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("graceful", handler="multicri")
    script = "trap 'echo bye; exit 21' TERM; echo ready; while :; do sleep 0.1; done"
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script])
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "ready\n")
    await kubelet.stop(container, grace_period_s=30)
    status = await kubelet.status(container)
    assert (status.state, status.exit_code) == (cri.CONTAINER_EXITED, 21)
    assert read_log(pod) == ["ready\n", "bye\n"]


async def test_who_ignores_its_grace_is_killed_with_everything_that_it_began(
    kubelet: Kubelet, image: str, proxy: Proxy
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("stubborn", handler="multicri")
    mark = f"{proxy.directory}-mark"
    script = f"trap '' TERM; (setsid sh -c 'while :; do sleep 0.1; done; : {mark}' &); echo ready; sleep 600"
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script])
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "ready\n")
    assert processes_with(mark)
    await kubelet.stop(container, grace_period_s=1)
    assert (await kubelet.status(container)).exit_code == 137
    assert processes_with(mark) == []


@pytest.mark.parametrize(
    ("script", "code"), [("exit 143", 143), ("sh -c 'kill -9 $$'", 137), ("sh -c 'kill -TERM $$'", 143)]
)
async def test_exit_codes_of_signals_are_as_a_shell_has_them(
    kubelet: Kubelet, image: str, script: str, code: int
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("codes", handler="multicri")
    container = await kubelet.create_container(pod, image, command=["sh", "-c", f"{script}; exit $?"])
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == code


async def test_volumes_are_seen_and_written_to_and_read_only_ones_are_not(
    kubelet: Kubelet, image: str, place: Path
) -> None:
    for name in ("data", "config", "nested"):
        (place / name).mkdir()
    (place / "config/key").write_text("of the node")
    (place / "message").touch()
    mounts = [
        cri.Mount(container_path="/data", host_path=str(place / "data")),
        cri.Mount(container_path="/etc/config", host_path=str(place / "config"), readonly=True),
        cri.Mount(container_path="/data/nested", host_path=str(place / "nested")),
        cri.Mount(container_path="/tmp/scratch", host_path=str(place / "nested")),
        cri.Mount(container_path="/dev/termination-log", host_path=str(place / "message")),
    ]
    script = (
        "cat /etc/config/key; echo; echo x >/etc/config/new; echo a >/data/a; echo b >/data/nested/b; "
        "echo c >/tmp/scratch/c; echo d >/dev/termination-log; echo e >/dev/null; ls /dev"
    )
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("volumes", handler="multicri")
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script], mounts=mounts)
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0, read_log(pod)
    [first, *devices] = read_log(pod, stream="stdout")
    assert first == "of the node\n"
    assert "null\n" in devices
    assert not [name for name in devices if name.startswith(("vd", "sd", "mem"))]
    assert "Read-only file system" in "".join(read_log(pod, stream="stderr"))
    texts = [(place / name).read_text() for name in ("data/a", "nested/b", "nested/c", "message")]
    assert texts == ["a\n", "b\n", "c\n", "d\n"]
    assert not (place / "config/new").exists()


async def test_a_restarted_container_begins_anew_with_its_pods_directory_and_a_rotated_log_goes_on(
    kubelet: Kubelet, image: str, place: Path
) -> None:
    """The pod's directory is the kubelet's, and both containers have it."""
    (place / "shared").mkdir()
    mounts = [cri.Mount(container_path="/shared", host_path=str(place / "shared"))]
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("restarts", handler="multicri")
    script = "echo x >>/own; echo $(wc -l </own) of $(wc -l </shared/all); exit 3"
    for attempt in range(2):
        command = ["sh", "-c", f"echo {attempt} >>/shared/all; {script}"]
        container = await kubelet.create_container(pod, image, command=command, mounts=mounts, attempt=attempt)
        await kubelet.start(container)
        assert (await kubelet.wait_until_exited(container)).exit_code == 3
        assert read_log(pod, attempt=attempt) == [f"1 of {attempt + 1}\n"]

    command = ["sh", "-c", "echo before; while [ ! -e /shared/go ]; do sleep 0.1; done; echo after"]
    other = await kubelet.create_container(pod, image, name="other", command=command, mounts=mounts)
    await kubelet.start(other)
    await kubelet.wait_for_log(pod, "before\n", name="other")
    log = pod.log_directory / "other/0.log"
    log.rename(log.with_suffix(".log.old"))
    await kubelet.call(cri.ReopenContainerLogRequest(container_id=other), cri.ReopenContainerLogResponse)
    (place / "shared/go").touch()
    assert (await kubelet.wait_until_exited(other)).exit_code == 0
    assert read_log(pod, name="other") == ["after\n"]
    assert b"before" in log.with_suffix(".log.old").read_bytes()


async def test_what_a_container_writes_is_its_own(kubelet: Kubelet, image: str) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("writes", handler="multicri")
    for name in ("first", "second"):
        script = "test ! -e /etc/mine && echo 1 >/etc/mine && echo 2 >/tmp/mine && cat /etc/mine"
        container = await kubelet.create_container(pod, image, name=name, command=["sh", "-c", script])
        await kubelet.start(container)
        assert (await kubelet.wait_until_exited(container)).exit_code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": {"LD_PRELOAD": "one\ntwo"}}, "LD_PRELOAD.*newline.*0.34"),
        ({"env": {"BIG": "x" * (1 << 20)}}, "BIG"),
        ({"mounts": [cri.Mount(container_path="/a:b", host_path="/tmp")]}, "colon"),
        ({"mounts": [cri.Mount(container_path="/proc/x", host_path="/tmp")]}, "/proc/x"),
        ({"working_dir": "relative"}, "working_dir"),
    ],
)
async def test_what_cannot_be_given_is_refused_by_name(
    kubelet: Kubelet, image: str, change: dict[str, object], message: str
) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("refused", handler="multicri")
    with pytest.raises(grpc.aio.AioRpcError, match=message) as raised:
        await kubelet.create_container(pod, image, **{"command": ["true"], **change})  # type: ignore[arg-type]
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await kubelet.containers(pod_sandbox_id=pod.sandbox_id) == []


@pytest.mark.parametrize("who", ["user"])
async def test_what_a_container_without_control_groups_uses_is_told(kubelet: Kubelet, image: str) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("busy", handler="multicri")
    container = await kubelet.create_container(pod, image, command=["sh", "-c", "while :; do :; done"])
    await kubelet.start(container)
    stats = cri.ContainerStats()
    async with asyncio.timeout(60):
        while not stats.cpu.usage_nano_cores.value:
            request = cri.ContainerStatsRequest(container_id=container)
            stats = (await kubelet.call(request, cri.ContainerStatsResponse)).stats
            await asyncio.sleep(0.5)
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert stats.memory.working_set_bytes.value > 0


async def test_an_image_that_is_not_there_is_told(kubelet: Kubelet, image: str) -> None:
    missing = image.replace("busybox", "missing")
    pod = await kubelet.run_pod_sandbox("missing", handler="multicri")
    with pytest.raises(grpc.aio.AioRpcError, match="missing") as raised:
        await kubelet.pull(missing)
        await kubelet.create_container(pod, missing, command=["true"])
    assert raised.value.code() is not grpc.StatusCode.UNKNOWN


async def test_a_read_only_root_and_a_user_are_given_and_a_privileged_container_is_refused(
    kubelet: Kubelet, image: str
) -> None:
    image_id = await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("secure", handler="multicri")

    def request(**security: object) -> cri.CreateContainerRequest:
        context = cri.LinuxContainerSecurityContext(**security)  # type: ignore[arg-type]
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main"),
            image=cri.ImageSpec(image=image_id),
            command=["sh", "-c", "id -u; id -g; touch /etc/new"],
            log_path="main.log",
            linux=cri.LinuxContainerConfig(security_context=context),
        )
        return cri.CreateContainerRequest(pod_sandbox_id=pod.sandbox_id, config=config, sandbox_config=pod.config)

    with pytest.raises(grpc.aio.AioRpcError, match="privileged"):
        await kubelet.call(request(privileged=True), cri.CreateContainerResponse)
    pod.log_directory.mkdir(parents=True, exist_ok=True)
    ids = {"run_as_user": cri.Int64Value(value=1234), "run_as_group": cri.Int64Value(value=56)}
    created = await kubelet.call(request(readonly_rootfs=True, **ids), cri.CreateContainerResponse)
    await kubelet.start(created.container_id)
    assert (await kubelet.wait_until_exited(created.container_id)).exit_code == 1
    log = (pod.log_directory / "main.log").read_text()
    assert "stdout F 1234\n" in log
    assert "stdout F 56\n" in log
    assert "Read-only file system" in log
