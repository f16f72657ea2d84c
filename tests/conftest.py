"""The test bed, brought up once for all tests that need it."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from testbed import Testbed

# how long an example takes says more of what else the machine does
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# what runs in the background of a shell inherits that it is ignored, and so would all that tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


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
