"""What the tests of the Slurm adapter share."""

import sys
from pathlib import Path

import pytest
from testbed import Testbed

sys.path.insert(0, str(Path(__file__).parent))

from slurm_bench import Bench


@pytest.fixture
def bench(bed: Testbed) -> Bench:
    return Bench(bed=bed, settings={"known_hosts": str(bed.cluster.known_hosts), "mount_path": "multi-cri-tests"})
