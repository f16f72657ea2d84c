"""Every adapter, each in every way that it has to run a container."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed import Testbed
from testbed.rest import rest_settings

sys.path.insert(0, str(Path(__file__).parent.parent / "multicri_slurm"))

from slurm_bench import Bench as SlurmBench

from contract.adapters import ADAPTERS, NODE
from contract.bench import AdapterBench
from contract.node_bench import BedImages, NodeBench


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What a bench on this machine needs: a directory, the image's name and its registry's certificate."""
    if NODE in os.environ:
        yield json.loads(os.environ[NODE])
        return
    bed: Testbed = request.getfixturevalue("bed")
    bed.up()  # another module may have had another cluster in its place
    place = Path(tempfile.mkdtemp(prefix="contract-"))
    place.chmod(0o755)
    shutil.copy(bed.authority.certificate, place / "ca.crt")
    (place / "ca.crt").chmod(0o644)
    path = bed.registry.busybox.partition("/")[2]
    yield {
        "directory": str(place / "adapter"),
        "image": f"multicri/docker-repository.{bed.registry.address}/{path}",
        "certificate": str(place / "ca.crt"),
    }
    shutil.rmtree(place)


@pytest.fixture(params=ADAPTERS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AdapterBench:
    if request.param == "charliecloud":
        facts: dict[str, str] = request.getfixturevalue("node")
        images = BedImages(Path(facts["certificate"]))
        return NodeBench(directory=Path(facts["directory"]), image=facts["image"], images=images)
    bed: Testbed = request.getfixturevalue("bed")
    settings: dict[str, object] = {"mount_path": "multi-cri-tests"}
    if request.param == "slurm-rest":
        return SlurmBench(bed=bed, settings=settings | rest_settings(bed, tmp_path), rest=True)
    settings["known_hosts"] = str(bed.cluster.known_hosts)
    return SlurmBench(bed=bed, settings=settings, user="alice" if request.param == "slurm-apptainer" else "bob")
