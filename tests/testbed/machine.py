"""This machine's own state: what the bed changes of it, remembered before and put back after."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from testbed.host import CGROUP_PREFIX, CGROUP_ROOT, remove_cgroup
from testbed.node import STRAY_DIRECTORIES
from testbed.programs import TestbedError, run, wait_until

# CNI's bridge plugin sets it and leaves it.
SYSCTLS = ("net/ipv4/ip_forward",)
# Top-level cgroups that containerd (k8s.io, default), the kubelet (kubepods) and the bed's hosts make.
OUR_CGROUPS = ("k8s.io", "default", "kubepods", CGROUP_PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """What was there before the bed."""

    sysctls: dict[str, str]
    cgroups: list[str]
    directories: list[str]

    @classmethod
    def read(cls) -> "MachineState":
        return cls(
            sysctls={name: Path("/proc/sys", name).read_text().strip() for name in SYSCTLS},
            cgroups=[str(group) for group in _top_cgroups()],
            directories=[str(directory) for directory in STRAY_DIRECTORIES if directory.exists()],
        )

    @classmethod
    def from_json(cls, text: str) -> "MachineState":
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def restore(self) -> None:
        """Put sysctls back and remove cgroups that came with the bed."""
        for group in _top_cgroups():
            if group.name.startswith(OUR_CGROUPS) and str(group) not in self.cgroups:
                wait_until(f"{group} is empty", partial(remove_cgroup, group), timeout_s=60)
        for name, value in self.sysctls.items():
            Path("/proc/sys", name).write_text(value)


def _top_cgroups() -> list[Path]:
    return sorted(group for group in CGROUP_ROOT.glob("*/*/") if not group.is_symlink())


def add_bridge(name: str, address: str) -> None:
    """address: with its prefix length, such as 10.77.0.1/24. Raises TestbedError if something else has it."""
    if Path("/sys/class/net", name).exists():
        raise TestbedError(f"there is an interface {name} already; is another test bed up?")
    run(["ip", "link", "add", name, "type", "bridge"], timeout_s=60)
    run(["ip", "address", "add", address, "dev", name], timeout_s=60)
    run(["ip", "link", "set", name, "up"], timeout_s=60)


def remove_bridge(name: str) -> None:
    """Remove a bridge and the links plugged into it."""
    bridge = Path("/sys/class/net", name)
    if not bridge.exists():
        return
    for port in bridge.joinpath("brif").iterdir():
        run(["ip", "link", "delete", port.name], timeout_s=60, check=False)  # it may go by itself, with its namespace
    run(["ip", "link", "delete", name], timeout_s=60)


def unmount_below(directory: Path) -> None:
    """Unmount everything below a directory, the last mounted first."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        target = line.split()[4].encode().decode("unicode_escape")
        if Path(target).is_relative_to(directory):
            run(["umount", "--lazy", target], timeout_s=60)
