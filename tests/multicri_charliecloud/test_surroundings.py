"""What a container sees around it: names, the kernel's files, groups; as root's daemon and as an ordinary user's."""

import os
import subprocess
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet
from kubelet.client import PodOnNode, read_log

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

OF_THE_KUBELET = cri.LinuxContainerSecurityContext(
    namespace_options=cri.NamespaceOption(pid=cri.CONTAINER),
    seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault),
    capabilities=cri.Capability(drop_capabilities=["ALL"]),
    no_new_privs=True,
    masked_paths=["/proc/asound", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/uptime"],
    readonly_paths=["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
)
"""As it comes with a pod of the restricted kind; and /proc/uptime, which every kernel has."""

GROUP = 54321


async def _ran(kubelet: Kubelet, pod: PodOnNode, image: str, script: str, **more: object) -> list[str]:
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script], **more)  # type: ignore[arg-type]
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0, read_log(pod)
    return [line.rstrip("\n") for line in read_log(pod)]


async def test_a_pod_has_its_name_and_its_resolver_in_every_command(kubelet: Kubelet, image: str, place: Path) -> None:
    await kubelet.pull(image)
    dns = cri.DNSConfig(servers=["10.96.0.10"], searches=["default.svc.cluster.local", "svc"], options=["ndots:5"])
    pod = await kubelet.run_pod_sandbox("named", handler="multicri", more=cri.PodSandboxConfig(dns_config=dns))
    (place / "hosts").write_text("10.1.2.3 named\n")
    hosts = cri.Mount(container_path="/etc/hosts", host_path=str(place / "hosts"))
    script = "echo $HOSTNAME $(hostname) $(cat /etc/hostname); cat /etc/hosts /etc/resolv.conf; echo end; sleep 600"
    container = await kubelet.create_container(pod, image, command=["sh", "-c", script], mounts=[hosts])
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "end\n")
    assert read_log(pod) == [
        "named named named\n",
        "10.1.2.3 named\n",
        "nameserver 10.96.0.10\n",
        "search default.svc.cluster.local svc\n",
        "options ndots:5\n",
        "end\n",
    ]
    request = cri.ExecSyncRequest(container_id=container, cmd=["hostname"], timeout=30)
    assert (await kubelet.call(request, cri.ExecSyncResponse)).stdout == b"named\n"
    assert os.uname().nodename != "named"


async def test_a_pod_without_names_of_its_own_has_the_nodes(kubelet: Kubelet, image: str) -> None:
    """As one with hostNetwork: the kubelet names neither."""
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("plain", handler="multicri")
    pod.config.hostname = ""
    log = await _ran(kubelet, pod, image, "hostname; cat /etc/resolv.conf")
    assert log == [os.uname().nodename, *Path("/etc/resolv.conf").read_text().splitlines()]


async def test_what_the_kubelet_sends_with_every_pod_is_taken_and_kept(kubelet: Kubelet, image: str) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("restricted", handler="multicri")
    script = (
        "wc -c </proc/uptime; ls /sys/firmware | wc -l; "
        "(echo 1 >/proc/sys/kernel/domainname) 2>&1 | grep -o Read-only; "
        "grep -E 'NoNewPrivs' /proc/self/status; readlink /proc/self/ns/ipc"
    )
    *seen, ipc = await _ran(kubelet, pod, image, script, security=OF_THE_KUBELET)
    assert seen == ["0", "0", "Read-only", "NoNewPrivs:\t1"]
    assert ipc != str(Path("/proc/self/ns/ipc").readlink())


async def test_the_nodes_ipc_is_there_for_those_who_ask(kubelet: Kubelet, image: str) -> None:
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("ipc", handler="multicri")
    options = cri.NamespaceOption(pid=cri.CONTAINER, ipc=cri.NODE)
    security = cri.LinuxContainerSecurityContext(namespace_options=options)
    log = await _ran(kubelet, pod, image, "readlink /proc/self/ns/ipc", security=security)
    assert log == [str(Path("/proc/self/ns/ipc").readlink())]


async def test_a_volume_of_its_group_is_for_who_is_in_it(kubelet: Kubelet, image: str, place: Path, who: str) -> None:
    """fsGroup: the kubelet gives the volume to the group, and the group to the containers."""
    (place / "volume").mkdir()
    os.chown(place / "volume", 0, GROUP)
    (place / "volume").chmod(0o2770)
    (place / "volume/token").write_text("of the pod\n")
    os.chown(place / "volume/token", 0, GROUP)
    (place / "volume/token").chmod(0o640)
    await kubelet.pull(image)
    pod = await kubelet.run_pod_sandbox("groups", handler="multicri")
    mounts = [cri.Mount(container_path="/volume", host_path=str(place / "volume"))]
    security = cri.LinuxContainerSecurityContext(supplemental_groups=[GROUP])
    script = "cat /volume/token; echo x >/volume/new; echo end; sleep 600"
    if who == "user":
        with pytest.raises(grpc.aio.AioRpcError, match=f"supplemental_groups: {GROUP}") as raised:
            await _ran(kubelet, pod, image, script, mounts=mounts, security=security)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        return
    container = await kubelet.create_container(
        pod, image, command=["sh", "-c", script], mounts=mounts, security=security
    )
    await kubelet.start(container)
    await kubelet.wait_for_log(pod, "end\n")
    assert read_log(pod) == ["of the pod\n", "end\n"]
    assert (place / "volume/new").stat().st_gid == GROUP
    request = cri.ExecSyncRequest(container_id=container, cmd=["cat", "/volume/token"], timeout=30)
    assert (await kubelet.call(request, cri.ExecSyncResponse)).stdout == b"of the pod\n"


@pytest.mark.parametrize("who", ["root"])
@pytest.mark.parametrize("on_tmpfs", [False, True], ids=["disk", "tmpfs"])
async def test_a_volume_of_its_user_is_its_own(kubelet: Kubelet, image: str, place: Path, on_tmpfs: bool) -> None:
    """A service account's token is its pod's runAsUser's alone, 0600 and in memory; what is written is the user's."""
    volume = place / "volume"
    volume.mkdir()
    if on_tmpfs:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "none", str(volume)], check=True)
    try:
        volume.chmod(0o777)
        for name, owner in (("token", 1000), ("of-root", 0)):
            (volume / name).write_text(f"{name}\n")
            (volume / name).chmod(0o600)
            os.chown(volume / name, owner, 0)
        await kubelet.pull(image)
        pod = await kubelet.run_pod_sandbox("owner", handler="multicri")
        mounts = [
            cri.Mount(container_path="/volume", host_path=str(volume)),
            cri.Mount(container_path="/readonly", host_path=str(volume), readonly=True),
        ]
        script = (
            "cat /volume/token /readonly/token; stat -c %u:%g /volume/token; echo x >/volume/new; "
            "cat /volume/of-root 2>&1; touch /readonly/other 2>&1; echo mine >/tmp/mine; cat /tmp/mine"
        )
        security = cri.LinuxContainerSecurityContext(
            run_as_user=cri.Int64Value(value=1000), run_as_group=cri.Int64Value(value=3000)
        )
        log = await _ran(kubelet, pod, image, script, mounts=mounts, security=security)
        assert log[:2] == ["token", "token"]
        assert log[2].startswith("1000:")
        assert [line.rpartition(": ")[2] for line in log[3:5]] == ["Permission denied", "Read-only file system"]
        assert log[5:] == ["mine"]
        found = (volume / "new").stat()
        assert (found.st_uid, found.st_gid) == (1000, 3000)
        await kubelet.remove_sandbox(pod.sandbox_id)
    finally:
        if on_tmpfs:
            subprocess.run(["umount", str(volume)], check=True)
