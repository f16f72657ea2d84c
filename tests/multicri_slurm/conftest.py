"""What the tests of the Slurm adapter share."""

import sys
from pathlib import Path

import pytest
from testbed import Testbed
from testbed.rest import rest_settings

sys.path.insert(0, str(Path(__file__).parent))

from slurm_bench import Bench


@pytest.fixture
def bench(bed: Testbed, request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    common = {"mount_path": "multi-cri-tests"}
    if getattr(request, "param", "ssh") == "ssh":
        return Bench(bed=bed, settings={**common, "known_hosts": str(bed.cluster.known_hosts)})
    return Bench(bed=bed, settings={**common, **rest_settings(bed, tmp_path)}, rest=True)


@pytest.fixture
def rest_bench(bed: Testbed, tmp_path: Path) -> Bench:
    """Over REST, for a test that goes both ways at once."""
    return Bench(bed=bed, settings={"mount_path": "multi-cri-rest", **rest_settings(bed, tmp_path)}, rest=True)
