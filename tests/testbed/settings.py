"""What a test bed is made of: where it lives, its names and its addresses."""

import ipaddress
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

ReleaseName = Literal["bookworm", "trixie", "sid"]
"""Debian releases, for their Slurm: 22.05, 24.11, and the newest that Debian has."""

CLUSTER_NETWORK = ipaddress.IPv4Network("10.77.0.0/24")
POD_NETWORK = ipaddress.IPv4Network("10.78.0.0/24")
DEFAULT_BASE = Path("/var/tmp/multicri-testbed")


def default_base() -> Path:
    return Path(os.environ.get("MULTICRI_TESTBED", DEFAULT_BASE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Interface names have at most 15 characters. Both networks are /24 and exist on this machine only."""

    base: Path = field(default_factory=default_base)
    release: ReleaseName = "trixie"
    """The Debian release, and so the Slurm, of the cluster's hosts."""
    accounting: bool = False
    """Run mariadb and slurmdbd on the login host, so that sacct knows finished jobs."""
    memory_limits: bool = False
    """Let Slurm enforce memory with cgroup v1, so that a job over its --mem ends OUT_OF_MEMORY."""
    measured_jobs: bool = True
    """Let Slurm measure what jobs use, for sstat."""
    min_job_age_s: int = 60
    """How long slurmctld still knows a finished job (MinJobAge)."""
    cluster_bridge: str = "mcri-hpc"
    cluster_network: ipaddress.IPv4Network = CLUSTER_NETWORK
    pod_bridge: str = "mcri-pods"
    pod_network: ipaddress.IPv4Network = POD_NETWORK
    registry_name: str = "registry.test"

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """This machine's address on the cluster's network; the registry listens there."""
        return self.cluster_network[1]

    @property
    def cache(self) -> Path:
        """What is dear to make and the same every time: the cluster's root, the CA, the images. `down` keeps it."""
        return self.base / "cache"

    @property
    def run(self) -> Path:
        """Everything else. `down` removes it."""
        return self.base / "run"

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        values = json.loads(text)
        values["base"] = Path(values["base"])
        for network in ("cluster_network", "pod_network"):
            values[network] = ipaddress.IPv4Network(values[network])
        return cls(**values)
