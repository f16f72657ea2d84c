"""A CNI network for pods of the proxy's own: its configuration, and what it leaves."""

import json
from pathlib import Path

BRIDGE = "mcri-podnet"


class PodNetwork:
    """CNI's files below a directory."""

    def __init__(self, directory: Path) -> None:
        self.conf_dir, self.bin_dir = directory / "net.d", directory / "bin"
        self.addresses, self.gate = directory / "addresses", directory / "gate"
        self.conf_dir.mkdir()
        self.bin_dir.mkdir()
        for plugin in Path("/usr/lib/cni").iterdir():
            (self.bin_dir / plugin.name).symlink_to(plugin)
        (self.bin_dir / "gate").write_text(
            f"#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\ntouch {self.gate}\nsleep 100 <&- >&- 2>&-\n"
        )
        (self.bin_dir / "gate").chmod(0o755)
        self.write()

    def write(self, *, gate_at: int | None = None) -> None:
        """gate_at: where in the chain ADD is held up."""
        ranges = [[{"subnet": "10.97.0.0/24", "rangeEnd": "10.97.0.200"}]]
        ipam = {"type": "host-local", "ranges": ranges, "dataDir": str(self.addresses)}
        bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "isDefaultGateway": True, "ipam": ipam}
        plugins: list[dict[str, object]] = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
        if gate_at is not None:
            plugins.insert(gate_at, {"type": "gate"})
        conf = {"cniVersion": "1.0.0", "name": "podnet", "plugins": plugins}
        (self.conf_dir / "10-podnet.conflist").write_text(json.dumps(conf))

    def left(self) -> list[str]:
        ports = Path("/sys/class/net", BRIDGE, "brif")
        plugged = [path.name for path in ports.iterdir()] if ports.exists() else []
        namespaces = [path.name for path in Path("/run/netns").glob("multicri-*")]
        return [*plugged, *namespaces, *(path.name for path in self.addresses.glob("*/10.*"))]
