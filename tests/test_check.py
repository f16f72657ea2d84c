"""``multicri-proxy check`` against the real cluster: what it finds, says and returns."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from testbed import Testbed

pytestmark = pytest.mark.testbed


class Profiles:
    """A configuration with a profile hpc, changed as a test needs it."""

    def __init__(self, bed: Testbed, directory: Path) -> None:
        self._bed = bed
        self._file = directory / "config.yaml"
        self.hpc: dict[str, object] = {"host": bed.cluster.host, "known_hosts": str(bed.cluster.known_hosts)}
        self._directory = directory
        self.login("alice")

    def login(self, name: str) -> None:
        password = self._directory / name
        password.write_text(self._bed.cluster.user(name).password)
        password.chmod(0o600)
        self.hpc |= {"user": name, "password_file": str(password)}

    def check(self, *arguments: str, **environment: str) -> tuple[int, dict[str, str], str]:
        """The exit status, each line by what it is about, and all that was printed."""
        return self.check_section({"clusters": {"hpc": self.hpc}}, *arguments, **environment)

    def check_section(
        self, slurm: dict[str, object], *arguments: str, **environment: str
    ) -> tuple[int, dict[str, str], str]:
        self._file.write_text(yaml.safe_dump({"slurm": slurm}))
        argv = [sys.executable, "-m", "multicri_proxy", "check", "--config", str(self._file), *arguments]
        env = {"PATH": "/usr/bin:/bin", **environment}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=env, check=False)
        printed = done.stdout + done.stderr
        lines = {line[12:33].strip(): line.strip() for line in printed.splitlines() if line.startswith("  ")}
        return done.returncode, lines, printed


@pytest.fixture
def profiles(bed: Testbed, tmp_path: Path) -> Profiles:
    return Profiles(bed, tmp_path)


def test_a_good_profile_is_good_all_over_and_nothing_of_the_check_is_left(bed: Testbed, profiles: Profiles) -> None:
    home = bed.cluster.user("alice").home
    profiles.hpc |= {"mount_path": "check/deep", "job_options_default": "--time=5 --mem=100M"}
    before = sorted(home.rglob("*"))
    status, lines, printed = profiles.check()
    assert status == 0, printed
    assert printed.startswith(f"hpc: alice@{bed.cluster.host}:22\n")
    for what, text in {
        "host key": "good      host key             known",
        "SSH": "good      SSH",
        "SFTP": "good      SFTP                 served",
        "Slurm": "good      Slurm                slurm",
        "slurmctld": "good      slurmctld            up",
        "sbatch --test-only": "good      sbatch --test-only   Job",
        "container runtime": "good      container runtime    apptainer: apptainer version",
        "flock": "good      flock",
        "clock": "good      clock",
        "directories": "can be written to",
        "accounting": "doubtful  accounting",
        "srun --mpi": "pmix",
    }.items():
        assert text in lines[what], printed
    assert sorted(home.rglob("*")) == before
    assert not bed.cluster.run("login", ["squeue", "-h", "-t", "pending,running"], check=True).stdout


def test_an_account_without_apptainer_runs_with_what_it_has_or_is_told_how_to_get_it(profiles: Profiles) -> None:
    profiles.login("bob")
    status, lines, printed = profiles.check("hpc")
    assert status == 0, printed
    assert lines["container runtime"].startswith("good      container runtime    ch-run: 0."), printed
    profiles.hpc |= {"image_builder": "apptainer"}
    status, lines, printed = profiles.check("hpc")
    assert (status, lines["container runtime"]) == (
        1,
        "bad       container runtime    none in PATH: looked for apptainer",
    )
    assert "load it in slurm.clusters.hpc.prerun" in printed


def test_a_wrong_host_key_a_wrong_password_and_an_unknown_host_are_told_apart(
    bed: Testbed, profiles: Profiles, tmp_path: Path
) -> None:
    profiles.hpc["host_key"] = bed.cluster.user("bob").key.with_suffix(".pub").read_text()
    status, lines, printed = profiles.check()
    assert status == 1
    assert "its host key is not the one in slurm.clusters.hpc.host_key" in lines["host key"], printed
    del profiles.hpc["host_key"]
    (tmp_path / "alice").write_text("not-it")
    status, lines, printed = profiles.check()
    assert status == 1
    assert "refuses these credentials: check slurm.clusters.hpc.user" in lines["SSH"], printed
    assert "not-it" not in printed
    (tmp_path / "none").touch()
    profiles.hpc["known_hosts"] = str(tmp_path / "none")
    status, lines, printed = profiles.check()
    assert status == 1
    assert "there is no host key for it" in lines["host key"], printed


@pytest.fixture
def without_slurmctld(bed: Testbed) -> Iterator[None]:
    bed.cluster.stop_daemon("slurmctld")
    yield
    bed.cluster.start_daemon("slurmctld")
    bed.cluster.wait_ready()


def test_a_slurmctld_that_is_down_is_told_and_the_rest_looked_at_all_the_same(
    profiles: Profiles, without_slurmctld: None
) -> None:
    status, lines, printed = profiles.check()
    assert status == 1
    assert "bad" in lines["slurmctld"], printed
    assert "bad" in lines["sbatch --test-only"], printed
    assert "good" in lines["container runtime"], printed


def test_options_that_the_cluster_refuses_and_a_prerun_that_fails_are_told_in_its_words(profiles: Profiles) -> None:
    profiles.hpc["job_options_default"] = "--partition=nowhere"
    status, lines, printed = profiles.check()
    assert status == 1
    assert "invalid partition" in lines["sbatch --test-only"], printed
    assert "slurm.clusters.hpc.job_options_default" in printed
    profiles.hpc["prerun"] = "echo no such module >&2; false"
    status, lines, printed = profiles.check()
    assert (status, lines["prerun"]) == (1, "bad       prerun               ended with 1: no such module")


def test_a_directory_that_cannot_be_written_to_is_told(profiles: Profiles) -> None:
    profiles.hpc["image_remote_mount"] = "/etc/images"
    status, lines, printed = profiles.check()
    assert status == 1, printed
    assert "/etc/images: mkdir: cannot create directory" in lines.get("directories", ""), printed


def test_a_volume_that_the_cluster_has_not_mounted_is_told(profiles: Profiles) -> None:
    profiles.hpc["volume_names"] = {"nfs-vol1": "results"}
    status, lines, printed = profiles.check()
    assert status == 1
    assert "there is no directory multi-cri/results in the account's home" in lines["volumes"], printed


def test_a_pods_own_variables_can_be_tried_and_a_namespace(bed: Testbed, profiles: Profiles) -> None:
    own = {"CLUSTER_HOST": bed.cluster.host, "CLUSTER_USERNAME": "bob", "CLUSTER_PASSWORD": "bobpw"}
    status, _, printed = profiles.check("hpc", **own)
    assert status == 0, printed
    assert printed.startswith("hpc: bob@")
    status, lines, printed = profiles.check("default")
    assert status == 1
    assert "nobody to log in as" in lines["account"]
    users = {"team": {name: profiles.hpc.pop(name) for name in ("user", "password_file")}}
    profiles.hpc["users"] = users
    assert profiles.check("hpc", "--namespace", "team")[0] == 0
    status, lines, printed = profiles.check("hpc", "--namespace", "other")
    assert "nobody is set for the namespace other" in lines["account"], printed


def test_variables_are_tried_in_the_only_profile_without_its_name_and_shown_to_no_other(
    bed: Testbed, profiles: Profiles
) -> None:
    own = {"CLUSTER_HOST": bed.cluster.host, "CLUSTER_USERNAME": "bob", "CLUSTER_PASSWORD": "bobpw"}
    status, _, printed = profiles.check_section({"known_hosts": str(bed.cluster.known_hosts)}, **own)
    assert status == 0, printed
    assert printed.startswith("default: bob@")
    status, _, printed = profiles.check(**own)
    assert status == 0, printed
    assert "bob@" not in printed


def test_settings_that_are_wrong_and_a_profile_that_is_not_there_are_said_in_one_line(profiles: Profiles) -> None:
    status, _, printed = profiles.check("elsewhere")
    assert (status, printed) == (2, "multicri-proxy: there is no profile 'elsewhere': there are default, hpc\n")
    profiles.hpc["prot"] = 22
    status, _, printed = profiles.check()
    assert status == 2
    assert printed.startswith("multicri-proxy: slurm.clusters.hpc.prot: ")


def over_rest(bed: Testbed, directory: Path) -> dict[str, object]:
    token = directory / "token"
    token.write_text(bed.cluster.token("alice", lifespan_s=36_000))
    token.chmod(0o600)
    alice = bed.cluster.user("alice")
    return {
        "rest_url": bed.cluster.rest_url,
        "rest_unencrypted": True,
        "shared_directory": str(alice.home),
        "shared_directory_in_cluster": "/home/alice",
        "user": "alice",
        "token_file": str(token),
        "uid": alice.uid,
        "gid": alice.uid,
    }


def test_a_cluster_that_is_reached_by_rest_is_looked_at_and_nothing_is_left(
    bed: Testbed, profiles: Profiles, tmp_path: Path
) -> None:
    before = sorted(bed.cluster.user("alice").home.rglob("*"))
    profiles.hpc = over_rest(bed, tmp_path)
    status, lines, printed = profiles.check()
    assert status == 0, printed
    for what, text in {
        "slurmrestd": "good      slurmrestd           speaks v0.0.4",
        "Slurm": "good      Slurm                slurm ",
        "slurmctld": "good      slurmctld            up",
        "token": "good      token                is taken, for 10 h more",
        "shared directory": "can be written to",
        "accounting": "doubtful  accounting",
    }.items():
        assert text in lines[what], printed
    assert sorted(bed.cluster.user("alice").home.rglob("*")) == before


def test_a_token_and_a_directory_that_are_somebody_elses_are_told_with_what_to_do(
    bed: Testbed, profiles: Profiles, tmp_path: Path
) -> None:
    profiles.hpc = over_rest(bed, tmp_path) | {"uid": 2002, "gid": 2002}
    (tmp_path / "token").write_text("a.b.c")
    status, lines, printed = profiles.check()
    assert status == 1
    assert "slurmrestd refuses the token: have a new one written to slurm.clusters.hpc.token_file" in lines["token"]
    assert "uid 2002 may not" in lines["shared directory"], printed
    assert "have uid and gid of alice be those of the cluster" in printed


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_a_job_finds_out_whether_containers_run_on_a_compute_node_and_nothing_is_left(
    bed: Testbed, profiles: Profiles, user: str
) -> None:
    home = bed.cluster.user(user).home
    before = sorted(home.rglob("*"))
    profiles.login(user)
    profiles.hpc |= {"prerun": "export FROM_PRERUN=1", "job_options_default": "--mem=200M", "mount_path": "check/deep"}
    status, lines, printed = profiles.check("--run-job")
    assert status == 0, printed
    for what, text in {
        "job": " ran on cn",
        "runtime in a job": "apptainer version" if user == "alice" else "0.",
        "images in a job": "can be read",
        "user namespaces": "allowed in a job",
        "container in a job": "ran",
    }.items():
        assert lines[what].startswith("good"), printed
        assert text in lines[what], printed
    assert sorted(home.rglob("*")) == before
    assert not bed.cluster.run("login", ["squeue", "-h", "-t", "pending,running"], check=True).stdout


@pytest.fixture
def nodes_without_apptainer(bed: Testbed) -> Iterator[None]:
    for node in ("cn1", "cn2"):
        bed.cluster.run(node, ["mv", "/usr/bin/apptainer", "/usr/bin/elsewhere"], check=True)
    yield
    for node in ("cn1", "cn2"):
        bed.cluster.run(node, ["mv", "/usr/bin/elsewhere", "/usr/bin/apptainer"], check=True)


@pytest.mark.usefixtures("nodes_without_apptainer")
def test_what_compute_nodes_lack_is_told_with_the_mend(bed: Testbed, profiles: Profiles) -> None:
    bed.cluster.run("login", ["install", "-d", "-o", "alice", "/srv/images"], check=True)
    profiles.hpc |= {"image_remote_mount": "/srv/images"}
    status, lines, printed = profiles.check("--run-job")
    assert status == 1
    assert lines["runtime in a job"].startswith("bad       runtime in a job     not in PATH on cn"), printed
    assert "install it there, or load it in slurm.clusters.hpc.prerun" in printed
    assert "does not see them: ls: cannot access '/srv/images/" in lines["images in a job"], printed
    assert "mount it there, or set slurm.clusters.hpc.image_remote_mount" in printed
    assert "container in a job" not in lines
    assert not bed.cluster.run("login", ["ls", "-A", "/srv/images"], check=True).stdout


def test_a_prerun_that_fails_in_jobs_alone_is_told(profiles: Profiles) -> None:
    profiles.hpc["prerun"] = '[ -z "$SLURM_JOB_ID" ] || { echo no module here >&2; false; }'
    status, lines, printed = profiles.check("--run-job")
    assert status == 1
    assert lines["prerun"].startswith("bad       prerun               ended with 1 in job "), printed
    assert "no module here" in printed
