"""The test bed, brought up once for all tests that need it."""

import os
from collections.abc import Iterator

import pytest
from testbed import Testbed


@pytest.fixture(scope="session")
def bed() -> Iterator[Testbed]:
    """Real containerd, Slurm, sshd and registry. One that is up already is used and left up."""
    if os.geteuid() != 0:
        pytest.skip("the test bed needs root")
    found = Testbed.found(Testbed().settings.base)
    if found:
        found.up()
        yield found
        return
    bed = Testbed()
    bed.up()
    yield bed
    bed.down()
