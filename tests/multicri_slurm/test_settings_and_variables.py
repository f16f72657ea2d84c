"""What an admin and a pod may write, and what they are told if it is wrong."""

import asyncssh
import pytest
from multicri_slurm.profiles import Profile
from multicri_slurm.settings import read_settings
from multicri_slurm.variables import read_variables, split

from multicri_proxy.api.errors import InvalidArgument

LEAST = {"CLUSTER_USERNAME": b"alice", "CLUSTER_HOST": b"hpc.example.org", "CLUSTER_PASSWORD": b"pw"}


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"mount_path": "../x"}, "slurm.mount_path: must have no part"),
        ({"mount_path": "/x"}, "slurm.mount_path: must be relative"),
        ({"mount_path": "a b"}, "slurm.mount_path: must consist of"),
        ({"mount_path": "-x"}, "slurm.mount_path: must have no part"),
        ({"image_remote_mount": "/a/../b"}, "slurm.image_remote_mount"),
        ({"build_in_cluster": "nowhere"}, "slurm.build_in_cluster: Input should be a valid boolean"),
        ({"known_hosts": "x"}, "slurm.known_hosts: must be an absolute path"),
        ({"poll_interval_s": 0}, "slurm.poll_interval_s"),
        ({"exec_by": "telnet"}, "slurm.exec_by"),
        ({"exec_by": "ssh", "exec_agents": 0}, "slurm.exec_agents"),
        ({"way_back": [{"to": "10.96.0.0/12"}], "exec_agents": 0}, "slurm.exec_agents"),
        ({"way_back": [{"to": "10.96.0.1/12"}]}, "slurm.way_back.0.to"),
        ({"way_back": [{"to": "10.96.0.0/12", "ports": [70000]}]}, "slurm.way_back.0.ports.0"),
        ({"poll_interval_s": float("nan")}, "slurm.poll_interval_s"),
        ({"image_builder": "docker"}, "slurm.image_builder"),
        ({"job_options_allowed": ["--x"]}, "slurm.job_options_allowed"),
        ({"allowed_hosts": ["a b"]}, "slurm.allowed_hosts"),
        ({"mount_pth": "x"}, "slurm.mount_pth"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_the_reason(section: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        read_settings(section)


def test_hosts_are_allowed_by_pattern_and_all_of_them_without_one() -> None:
    assert read_settings({}).allows_host("anything")
    some = read_settings({"allowed_hosts": ["*.hpc.example.org", "login"]})
    assert some.allows_host("a.HPC.example.org")
    assert some.allows_host("login")
    assert not some.allows_host("login2")


def test_reserved_variables_never_reach_the_container_and_all_others_do() -> None:
    ours, containers = split(
        [
            ("CLUSTER_HOST", b"a"),
            ("CLUSTER_ANYTHING", b"a"),
            ("JOB_QUEUE", b"q"),
            ("JOB_COMPLETION_INDEX", b"1"),
            ("MPI_VERSION", b""),
            ("MPI_HOME", b"x"),
            ("A", b"first"),
            ("CLUSTER", b"x"),
            ("A", b"second"),
        ]
    )
    assert ours.keys() == {"CLUSTER_HOST", "CLUSTER_ANYTHING", "JOB_QUEUE", "MPI_VERSION"}
    assert containers == {"JOB_COMPLETION_INDEX": b"1", "MPI_HOME": b"x", "CLUSTER": b"x", "A": b"second"}


def test_job_variables_become_the_options_that_multi_cri_gave() -> None:
    variables = read_variables(
        LEAST
        | {
            "JOB_QUEUE": b"gpu,long",
            "JOB_GPU": b"gpu:a100:2",
            "JOB_NUM_NODES": b"2-4",
            "JOB_NUM_CORES": b"8",
            "JOB_NUM_CORES_NODE": b"4",
            "JOB_NUM_TASKS_NODE": b"2",
        }
    )
    assert variables.job_options() == (
        "--partition=gpu,long",
        "--gres=gpu:a100:2",
        "--nodes=2-4",
        "--ntasks=8",
        "--cpus-per-task=4",
        "--ntasks-per-node=2",
    )


@pytest.mark.parametrize("gpu", ["gpu", "gpu:2", "gpu:a100", "gpu:a100:2", "gpu:3g.20gb:1"])
def test_every_form_of_a_gpu_is_taken(gpu: str) -> None:
    assert read_variables(LEAST | {"JOB_GPU": gpu.encode()}).job_options() == (f"--gres={gpu}",)


def test_a_shell_is_asked_for_by_true_alone() -> None:
    assert read_variables(LEAST | {"JOB_SHELL": b"true"}).JOB_SHELL
    assert read_variables(LEAST | {"JOB_SHELL": b"false"}).JOB_SHELL is False
    assert read_variables(LEAST | {"JOB_SHELL": b""}).JOB_SHELL is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("CLUSTER_USERNAME", b"-oProxyCommand=x", "CLUSTER_USERNAME='-oProxyCommand=x': must be a user name"),
        ("CLUSTER_HOST", b"a b", "CLUSTER_HOST='a b': must be a host name"),
        ("CLUSTER_HOST", b"-x", "must be a host name"),
        ("CLUSTER_PORT", b"0", "CLUSTER_PORT='0'"),
        ("CLUSTER_PORT", b"x", "CLUSTER_PORT='x'"),
        ("JOB_QUEUE", b"a b", "JOB_QUEUE='a b'"),
        ("JOB_QUEUE", b"a\n#SBATCH --x", "JOB_QUEUE="),
        ("JOB_QUEUE", b"a\n", "JOB_QUEUE="),
        ("JOB_GPU", b"gpus", "JOB_GPU='gpus': must be gpu[[:type]:count]"),
        ("JOB_GPU", b"gpu::2", "JOB_GPU='gpu::2': must be gpu[[:type]:count]"),
        ("JOB_GPU", b"gpu:2:2", "JOB_GPU='gpu:2:2'"),
        ("JOB_GPU", b"gpu:a100:0", "JOB_GPU='gpu:a100:0'"),
        ("JOB_GPU", b"gpu:a100:two", "JOB_GPU='gpu:a100:two'"),
        ("JOB_GPU", b"gpu:", "JOB_GPU='gpu:'"),
        ("JOB_SHELL", b"yes", "JOB_SHELL='yes': must be true or false"),
        ("JOB_NUM_NODES", b"0", "JOB_NUM_NODES='0'"),
        ("JOB_NUM_CORES", b"-1", "JOB_NUM_CORES='-1'"),
        ("JOB_NUM_CORES", "٣".encode(), "JOB_NUM_CORES="),
        ("JOB_NUM_CORES_NODE", b"2.5", "JOB_NUM_CORES_NODE='2.5'"),
        ("MPI_VERSION", b"5;id", "MPI_VERSION='5;id'"),
        ("CLUSTER_CONFIG", b"x" * 70_000, "CLUSTER_CONFIG: must not be longer"),
        ("JOB_CUSTOM_CONFIG", b"#\n" * 2100, "must not be longer than 4096 characters"),
        ("MPI_FLAGS", b"x" * 4100, "must not be longer than 4096 characters"),
        ("JOB_QUEUE", b"\xff", "JOB_QUEUE: must be UTF-8"),
    ],
)
def test_a_variable_that_is_wrong_is_named_with_what_it_wants(name: str, value: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_variables(LEAST | {name: value})
    assert reason in str(caught.value)


def test_an_error_never_shows_a_credential() -> None:
    secret = "-----BEGIN OPENSSH PRIVATE KEY-----\nsecretsecret"
    wrong = {"CLUSTER_USERNAME": b"-", "CLUSTER_HOST": b"h", "CLUSTER_KEYVALUE": secret[5:].encode()}
    with pytest.raises(InvalidArgument) as caught:
        read_variables(wrong | {"CLUSTER_CONFIG": b"secretsecret\0", "CLUSTER_PASSWORD": b"secretsecret\0"})
    assert "secretsecret" not in str(caught.value)
    assert "CLUSTER_KEYVALUE: is not a private key" in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_is_taken_and_one_that_would_take_minutes_to_check_is_refused() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    plain = {"CLUSTER_PASSWORD": b"", "CLUSTER_KEYVALUE": key.export_private_key()}
    login = Profile(name="default", settings=read_settings({})).login_for(read_variables(LEAST | plain), "default")
    assert login.password is None
    assert login.private_key is not None
    assert login.private_key[:40] not in repr(login)
    too_long = {"CLUSTER_PASSWORD": b"", "CLUSTER_KEYVALUE": key.export_private_key() * 20}
    with pytest.raises(InvalidArgument, match="CLUSTER_KEYVALUE: is longer than 4096 characters"):
        read_variables(LEAST | too_long)
