"""The essential main job against other versions of Slurm: 22.05, and the newest that Debian has."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from testbed import Testbed

from main_job.test_kill import pods, test_the_job_ends_while_the_proxy_is_away
from main_job.test_slurm_pod import (
    test_a_job_that_waits_in_the_queue_is_running_for_cri_and_can_be_stopped,
    test_a_pod_runs_as_a_job_from_pull_to_removal,
    test_stop_gives_the_container_its_grace_and_takes_its_own_exit_code,
)
from main_job.test_telling import (
    slurm_only,
    test_a_job_that_waits_says_why_in_an_event_its_status_and_its_log,
    test_stats_are_what_the_job_uses,
)

pytestmark = [pytest.mark.testbed, pytest.mark.other_releases]

__all__ = [
    "pods",
    "slurm_only",
    "test_a_job_that_waits_in_the_queue_is_running_for_cri_and_can_be_stopped",
    "test_a_job_that_waits_says_why_in_an_event_its_status_and_its_log",
    "test_a_pod_runs_as_a_job_from_pull_to_removal",
    "test_stats_are_what_the_job_uses",
    "test_stop_gives_the_container_its_grace_and_takes_its_own_exit_code",
    "test_the_job_ends_while_the_proxy_is_away",
]


@pytest.fixture(scope="module", params=["bookworm", "sid"])
def bed(bed: Testbed, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """Another cluster in place of the one that was up; that one is up again afterwards."""
    other = Testbed(settings=replace(bed.settings, release=request.param))
    other.up()
    yield other
    bed.up()
