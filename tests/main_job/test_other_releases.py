"""The essential main job against other versions of Slurm: 22.05, and the newest that Debian has."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from testbed import Testbed

from main_job.test_exec import (
    container,
    test_a_command_has_the_containers_environment_files_processes_and_working_directory,
    test_a_command_that_takes_too_long_is_killed_with_its_children,
    test_a_shell_in_a_terminal_knows_its_size_and_ctrl_c,
    test_exit_codes_are_the_commands_own,
    test_stdin_of_a_container_stays_open_for_the_next_one_or_ends_with_the_first,
)
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
    "container",
    "pods",
    "slurm_only",
    "test_a_command_has_the_containers_environment_files_processes_and_working_directory",
    "test_a_command_that_takes_too_long_is_killed_with_its_children",
    "test_a_job_that_waits_in_the_queue_is_running_for_cri_and_can_be_stopped",
    "test_a_job_that_waits_says_why_in_an_event_its_status_and_its_log",
    "test_a_pod_runs_as_a_job_from_pull_to_removal",
    "test_a_shell_in_a_terminal_knows_its_size_and_ctrl_c",
    "test_exit_codes_are_the_commands_own",
    "test_stats_are_what_the_job_uses",
    "test_stdin_of_a_container_stays_open_for_the_next_one_or_ends_with_the_first",
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
