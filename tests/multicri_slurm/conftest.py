"""What the tests of the Slurm adapter share."""

import sys
from pathlib import Path

import pytest
from testbed import Testbed

sys.path.insert(0, str(Path(__file__).parent))

from slurm_bench import Bench

BOTH_WAYS = pytest.mark.parametrize("bench", ["ssh", "rest"], indirect=True)
"""For tests that hold whichever way leads to the cluster."""


@pytest.fixture
def bench(bed: Testbed, request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    common = {"mount_path": "multi-cri-tests"}
    if getattr(request, "param", "ssh") == "ssh":
        return Bench(bed=bed, settings={**common, "known_hosts": str(bed.cluster.known_hosts)})
    return Bench(bed=bed, settings={**common, **rest_settings(bed, tmp_path)}, rest=True)


def rest_settings(bed: Testbed, directory: Path) -> dict[str, object]:
    """A cluster that alice's and bob's token files open. directory: for these."""
    users = {}
    for name in ("alice", "bob"):
        person, file = bed.cluster.user(name), directory / f"{name}.token"
        file.touch(mode=0o600)
        file.write_text(bed.cluster.token(name))
        users[name] = {"user": name, "token_file": str(file), "uid": person.uid, "gid": person.uid}
    return {
        "rest_url": bed.cluster.rest_url,
        "rest_unencrypted": True,
        "shared_directory": str(bed.cluster.user("alice").home.parent / "{user}"),
        "shared_directory_in_cluster": "/home/{user}",
        "users": users,
        "pod_prerun": True,
    }
