"""The node: Debian's containerd, runc and CNI plugins with configuration, root, state and socket of their own."""

import ipaddress
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.programs import Daemon, run, wait_until
from testbed.registry import Registry
from testbed.settings import Settings

CNI_VERSION = "0.4.0"
CNI_NETWORK = "testbed-pods"
# Places outside the bed's base directory that containerd 1.6, ctr and libcni write to, without a setting for it.
STRAY_DIRECTORIES = (Path("/run/containerd"), Path("/var/lib/cni"))

CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
# opt makes /opt/containerd; the others need what this machine may not have
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  enable_selinux = false
  disable_apparmor = true
  # without CAP_SYS_RESOURCE no sandbox starts otherwise: "can't get final child's PID from pipe: EOF"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin_dir}"
    conf_dir = "{cni_conf_dir}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{certs_dir}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
"""
RUNTIME = """\
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{handler}]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{handler}.options]
        BinaryName = "/usr/sbin/runc"
        Root = "{directory}/runc"
        SystemdCgroup = false
"""
# Every registry name leads to the bed's registry, and nowhere else.
HOSTS = """\
server = "https://{address}"
[host."https://{address}"]
  capabilities = ["pull", "resolve"]
  ca = "{ca}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    settings: Settings
    registry: Registry

    @property
    def socket(self) -> Path:
        """containerd's socket, which is its CRI endpoint too."""
        return self._directory / "containerd.sock"

    @property
    def config(self) -> Path:
        return self._directory / "config.toml"

    @property
    def cni_conf_dir(self) -> Path:
        return self._directory / "cni"

    @property
    def cni_bin_dir(self) -> Path:
        return Path("/usr/lib/cni")

    @property
    def log(self) -> Path:
        return self.daemon.log

    @property
    def runtime_handlers(self) -> tuple[str, ...]:
        """Both are runc; `alt` is there to tell handlers apart."""
        return ("runc", "alt")

    @property
    def daemon(self) -> Daemon:
        return Daemon(
            name="containerd",
            argv=("containerd", "--config", str(self.config)),
            pid_file=self._directory / "containerd.pid",
            log=self._directory / "containerd.log",
        )

    def prepare(self) -> None:
        """Write containerd's and CNI's configuration."""
        certs_dir = self._directory / "certs.d"
        for directory in (self.cni_conf_dir, certs_dir / "_default"):
            directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            CONFIG.format(
                directory=self._directory,
                socket=self.socket,
                pause=self.registry.pause,
                cni_bin_dir=self.cni_bin_dir,
                cni_conf_dir=self.cni_conf_dir,
                certs_dir=certs_dir,
            )
            + "".join(RUNTIME.format(handler=handler, directory=self._directory) for handler in self.runtime_handlers)
        )
        (certs_dir / "_default/hosts.toml").write_text(
            HOSTS.format(address=self.registry.address, ca=self.registry.authority.certificate)
        )
        (self.cni_conf_dir / "10-testbed.conflist").write_text(json.dumps(self._cni(), indent=2))

    def start(self) -> None:
        """Start containerd and wait until it answers. Containers of an earlier run of it live on."""
        self.daemon.start()
        self.daemon.wait_ready("answers", self.answers, timeout_s=60)

    def stop(self) -> None:
        """Stop containerd with SIGTERM. Its containers live on, as on any node."""
        self.daemon.stop()

    def kill(self) -> None:
        """Stop containerd with SIGKILL. Its containers live on."""
        self.daemon.kill()

    def answers(self) -> bool:
        return self.socket.is_socket() and self.ctr("version", check=False).returncode == 0

    def ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run containerd's own client. CRI's containers are in its namespace k8s.io: ctr("-n", "k8s.io", …)."""
        return run(["ctr", "--address", str(self.socket), *arguments], timeout_s=60, check=check)

    def remove(self, *, had: frozenset[Path]) -> None:
        """Stop containerd, end all its containers, and remove what it left outside the base directory.

        had: which of STRAY_DIRECTORIES were there before the bed.
        """
        self.daemon.stop()
        wait_until("no container is left", self._kill_containers, timeout_s=60)
        for directory in STRAY_DIRECTORIES:
            if directory not in had:
                shutil.rmtree(directory, ignore_errors=True)

    def _kill_containers(self) -> bool:
        """SIGKILL every shim of this containerd with all below it; whether there was none."""
        doomed = [pid for shim in self._shims() for pid in (*_descendants(shim), shim)]
        for pid in doomed:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not doomed

    def _shims(self) -> Iterator[int]:
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                argv = (process / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if argv[0].endswith(b"containerd-shim-runc-v2") and str(self.socket).encode() in argv:
                yield int(process.name)

    def _cni(self) -> dict[str, object]:
        network: ipaddress.IPv4Network = self.settings.pod_network
        bridge = {
            "type": "bridge",
            "bridge": self.settings.pod_bridge,
            "isGateway": True,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": str(network)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(self._directory / "cni-addresses"),
            },
        }
        return {"cniVersion": CNI_VERSION, "name": CNI_NETWORK, "plugins": [bridge]}

    @property
    def _directory(self) -> Path:
        return self.settings.run / "node"


def _descendants(pid: int) -> list[int]:
    """All processes below one, deepest first."""
    below: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            below += [*_descendants(child), child]
    return below
