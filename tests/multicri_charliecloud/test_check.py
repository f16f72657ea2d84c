"""``multicri-proxy check`` on this machine: what it finds, says and returns."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.testbed

Checked = tuple[int, dict[str, str]]
Check = Callable[..., Checked]


NO_MORE = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'


@pytest.fixture
def check(place: Path, who: str) -> Check:
    """The exit status, and each line by what it is about."""
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"] if who == "user" else []

    def checked(*before: str, path: str = os.environ["PATH"], **section: object) -> Checked:
        section = {"directory": str(place / "charliecloud"), **section}
        (place / "config.yaml").write_text(yaml.safe_dump({"remote_runtime_endpoints": {}, "charliecloud": section}))
        argv = [sys.executable, "-m", "multicri_proxy", "check", "--config", str(place / "config.yaml")]
        env = {"PATH": path, "HOME": "/nonexistent"}
        done = subprocess.run(
            [*become, *before, *argv], capture_output=True, text=True, timeout=120, env=env, check=False
        )
        assert not done.stderr, done.stderr
        lines = done.stdout.splitlines()[1:]
        findings = [line for line in lines if not line.strip().startswith("mend:")]
        mends = {lines[at - 1]: line.strip() for at, line in enumerate(lines) if line.strip().startswith("mend:")}
        return done.returncode, {line[12:33].strip(): f"{line.strip()} {mends.get(line, '')}" for line in findings}

    place.chmod(0o777)
    return checked


def test_a_node_that_can_is_good_and_nothing_is_left_on_it(check: Check, place: Path, who: str) -> None:
    status, lines = check()
    assert status == 0, lines
    for what in ("programs", "charliecloud", "user namespaces", "directory"):
        assert lines[what].startswith("good"), lines[what]
    assert "0.31" in lines["charliecloud"]
    assert lines["account"].startswith("doubtful" if who == "root" else "good")
    assert not (place / "charliecloud").exists()


def test_a_program_that_is_missing_is_told_with_its_package(check: Check, place: Path) -> None:
    (place / "bin").mkdir()
    for program in ("ch-run", "ch-image", "ch-convert", "setpriv", "unshare"):
        (place / "bin" / program).symlink_to(Path("/usr/bin", program))
    status, lines = check(path=str(place / "bin"), image_format="squashfs")
    assert status == 1
    assert lines["programs"].startswith("bad")
    assert "mksquashfs, unsquashfs mend: apt-get install squashfs-tools" in lines["programs"]


@pytest.mark.parametrize("who", ["user"])
def test_a_kernel_without_user_namespaces_is_told_with_the_switch(check: Check) -> None:
    """The limit is that of a user namespace, and for those below it."""
    status, lines = check("unshare", "--user", "--keep-caps", "--map-current-user", "sh", "-c", NO_MORE, "sh")
    assert status == 1
    assert "sysctl user.max_user_namespaces" in lines["user namespaces"]


def test_a_directory_that_containers_cannot_enter_is_told(check: Check, place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    status, lines = check(directory=str(place / "closed/charliecloud"))
    assert status == 1
    assert "cannot be entered" in lines["directory"]


def test_a_directory_where_nothing_may_be_executed_is_told(check: Check, place: Path) -> None:
    (place / "noexec").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,mode=777", "none", str(place / "noexec")], check=True)
    try:
        status, lines = check(directory=str(place / "noexec"))
    finally:
        subprocess.run(["umount", str(place / "noexec")], check=True)
    assert status == 1
    assert "noexec" in lines["directory"]
