"""``deploy/demo``: plays the kubelet for two pods, and shows what each side sees of them."""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import zip_longest
from pathlib import Path

from kubelet import Kubelet, Proxy
from kubelet.client import PodOnNode
from testbed import Testbed, TestbedError

from multicri_proxy.cri.v1 import runtime_pb2 as cri

CONFIG = """\
remote_runtime_endpoints:
  default: {containerd}
slurm:
  known_hosts: {known_hosts}
"""
SCRIPT = 'for n in 1 2 3; do echo "line $n of $(hostname)"; sleep 1; done; echo "a complaint" >&2; exit {exit_code}'
STEPS = 8


class Progress:
    """Says what is done, and how far it is."""

    def __init__(self) -> None:
        self._step = 0
        self._began = time.monotonic()

    def step(self, what: str) -> None:
        self._step += 1
        print(f"\n[{self._step}/{STEPS}] {what}  ({time.monotonic() - self._began:.0f} s)", flush=True)


@contextmanager
def test_bed() -> Iterator[Testbed]:
    """The test bed; one that is up already is left up."""
    found = Testbed.found(Testbed().settings.base)
    bed = found or Testbed()
    bed.up()
    try:
        yield bed
    finally:
        if not found:
            bed.down()


@asynccontextmanager
async def proxy_before(bed: Testbed, directory: Path) -> AsyncIterator[Proxy]:
    config = directory / "config.yaml"
    config.write_text(CONFIG.format(containerd=bed.node.socket, known_hosts=bed.cluster.known_hosts))
    print(f"multicri-proxy serve --config {config} --socket-path {directory}/multicri.sock")
    proxy = Proxy(directory, config)
    await proxy.start()
    try:
        yield proxy
    finally:
        proxy.terminate()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


async def show_pods(kubelet: Kubelet, pods: Mapping[str, PodOnNode]) -> None:
    """CRI's two lists, joined, as far as they are about these pods."""
    sandboxes = {sandbox.id: sandbox for sandbox in await kubelet.sandboxes()}
    ours = {pod.sandbox_id for pod in pods.values()}
    rows = []
    for container in await kubelet.containers():
        if container.pod_sandbox_id in ours:
            sandbox = sandboxes[container.pod_sandbox_id]
            status = await kubelet.status(container.id)
            state = cri.ContainerState.Name(status.state).removeprefix("CONTAINER_")
            ended = f"{status.exit_code} {status.reason}" if status.state == cri.CONTAINER_EXITED else ""
            handler = sandbox.runtime_handler or "(default)"
            rows.append((sandbox.metadata.name, handler, sandbox.id[:13], container.id[:13], state, ended))
    table(("POD", "HANDLER", "SANDBOX", "CONTAINER", "STATE", "EXIT"), sorted(rows))


def show_job(bed: Testbed, container_id: str) -> None:
    """What slurmctld has of a container's job."""
    argv = ["squeue", "-t", "all", "-n", f"multicri-{container_id[:32]}", "-o", "%i|%j|%u|%P|%T|%N|%M"]
    print(f"  $ {' '.join(argv[:5])}")
    head, *rows = (line.split("|") for line in bed.cluster.run("login", argv, check=True).stdout.splitlines())
    table(head, rows)


def show_logs(pods: Mapping[str, PodOnNode]) -> None:
    """The files that the kubelet reads, side by side."""
    logs = [(pod.log_directory / "main" / "0.log").read_text().splitlines() for pod in pods.values()]
    table([f"{name}/main/0.log" for name in pods], list(zip_longest(*logs, fillvalue="")))


async def show(bed: Testbed, directory: Path, progress: Progress) -> bool:
    """Returns whether both pods ended as they should."""
    progress.step("the proxy, between the kubelet and containerd")
    async with proxy_before(bed, directory) as proxy, Kubelet.of(proxy.socket_path, directory / "pods") as kubelet:
        alice = bed.cluster.user("alice")
        account = {
            "CLUSTER_USERNAME": alice.name,
            "CLUSTER_PASSWORD": alice.password,
            "CLUSTER_HOST": bed.cluster.host,
            "JOB_QUEUE": "batch",
        }
        progress.step("PullImage, for containerd and for the cluster")
        images = {"": bed.registry.busybox, "multicri": f"multicri/docker-repository.{bed.registry.busybox}"}
        ids = {handler: await kubelet.pull(image) for handler, image in images.items()}
        for handler, image in images.items():
            print(f"  {image}\n    {ids[handler]}")

        progress.step("RunPodSandbox, CreateContainer (the image is built in the cluster), StartContainer (sbatch)")
        pods, containers = {}, {}
        for name, handler, exit_code in (("ordinary", "", 0), ("job", "multicri", 3)):
            pods[name] = await kubelet.run_pod_sandbox(name, handler=handler)
            containers[name] = await kubelet.create_container(
                pods[name],
                ids[handler],
                command=["sh", "-c", SCRIPT.format(exit_code=exit_code)],
                env=account if handler else {},
            )
            await kubelet.start(containers[name])

        progress.step("while they run: CRI's list, then squeue in the cluster")
        await kubelet.wait_for_log(pods["job"], "line 1")
        await show_pods(kubelet, pods)
        show_job(bed, containers["job"])

        progress.step("when they have ended")
        statuses = {name: await kubelet.wait_until_exited(container) for name, container in containers.items()}
        await kubelet.wait_for_log(pods["job"], "a complaint")
        await show_pods(kubelet, pods)
        show_job(bed, containers["job"])

        progress.step("their logs, as the kubelet reads them")
        show_logs(pods)

        progress.step("StopPodSandbox, RemovePodSandbox: nothing is left, here or in the cluster")
        for pod in pods.values():
            await kubelet.remove_sandbox(pod.sandbox_id)
        left = [str(path) for path in alice.home.glob(f"multi-cri/{pods['job'].sandbox_id}*")]
        remaining = {sandbox.id for sandbox in await kubelet.sandboxes()}
        print(f"  directories of the pod in the cluster: {left or 'none'}")
        gone = not left and not remaining & {pod.sandbox_id for pod in pods.values()}
        return gone and {name: status.exit_code for name, status in statuses.items()} == {"ordinary": 0, "job": 3}


def main() -> int:
    progress = Progress()
    progress.step(
        "the test bed: containerd, a Slurm cluster of three hosts, sshd, a registry (minutes, the first time)"
    )
    try:
        with test_bed() as bed, tempfile.TemporaryDirectory(prefix="multicri-demo-") as directory:
            good = asyncio.run(show(bed, Path(directory), progress))
    except (TestbedError, TimeoutError, RuntimeError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    print(f"\n{'Both pods ran as they should.' if good else 'FAILED: see above.'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
