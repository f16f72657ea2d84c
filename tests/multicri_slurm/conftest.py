"""What the tests of the Slurm adapter share."""

import sys
from pathlib import Path

import pytest
from testbed import Testbed
from testbed.rest import rest_settings

sys.path.insert(0, str(Path(__file__).parent))

from slurm_bench import Bench


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seen, left_out = set[str](), []
    for item in items:
        if item.get_closest_marker("first_parameters"):
            name = item.nodeid.partition("[")[0]
            left_out += [item] if name in seen else []
            seen.add(name)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


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
