"""Whether a mount is the whole machine's or a unit's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from multicri_proxy.network.mounts import propagates

ROOT = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
DIRECTORY = Path("/run/netns")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([ROOT], True),
        ([ROOT, "22 21 0:20 / /run rw shared:5 - tmpfs tmpfs rw"], True),
        ([ROOT, "22 21 0:20 / /run rw shared:90 master:5 - tmpfs tmpfs rw"], False),
        ([ROOT, "22 21 0:20 / /run rw - tmpfs tmpfs rw"], False),
        (
            [ROOT, "22 21 0:20 / /run rw - tmpfs tmpfs rw", "23 22 0:20 /netns /run/netns rw shared:5 - tmpfs t rw"],
            True,
        ),
        ([ROOT, "22 21 0:20 / /runner rw - tmpfs tmpfs rw"], True),
        ([ROOT, "22 21 0:20 / /a\\040b rw - tmpfs tmpfs rw"], True),
        (["21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"], False),
    ],
)
def test_a_mount_is_the_machines_if_it_is_shared_and_nobodys_slave(lines: list[str], expected: bool) -> None:
    assert propagates(DIRECTORY, lines) is expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ([], "True"),
        (["unshare", "--mount", "--propagation", "private"], "False"),
        (["unshare", "--mount", "--propagation", "slave"], "False"),
    ],
)
def test_mounts_that_systemd_keeps_for_a_unit_do_not_lead_out(unit: list[str], expected: str) -> None:
    ask = "from multicri_proxy.network.mounts import lead_out; print(lead_out(Path('/run/netns')))"
    program = f"from pathlib import Path; {ask}"
    machine = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh"]
    argv = [*machine, *unit, sys.executable, "-c", program]
    assert subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == expected
