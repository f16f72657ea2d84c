"""Which profile a pod gets, and who it is there: decided from settings, handler, annotation, namespace, variables."""

from collections.abc import Mapping

import pytest
from multicri_slurm.plan import plan
from multicri_slurm.profiles import Profiles, read_profiles
from multicri_slurm.variables import read_variables

from multicri_proxy.api.adapter import ContainerSpec, Pod
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from multicri_proxy.api.ids import ContainerId, ImageId, PodSandboxId
from multicri_proxy.api.image import Image

HPC = {"host": "login.hpc.example.org", "user": "svc", "key_file": "/k"}
OWN = {"CLUSTER_USERNAME": b"alice", "CLUSTER_HOST": b"h", "CLUSTER_PASSWORD": b"pw"}


def profiles(clusters: Mapping[str, object] | None = None, **above: object) -> Profiles:
    return read_profiles({**above, "clusters": clusters or {}}, ("multicri", "multicri-gpu"))


def pod(handler: str = "multicri", namespace: str = "default", **annotations: str) -> Pod:
    return Pod(
        sandbox_id=PodSandboxId("s"),
        name="p",
        namespace=namespace,
        uid="u",
        attempt=0,
        labels={},
        annotations={f"slurm.multicri.io/{name}": value for name, value in annotations.items()},
        runtime_handler=handler,
    )


def test_a_pod_gets_the_profile_of_its_annotation_else_of_its_handler_else_the_section_itself() -> None:
    found = profiles({"hpc": HPC, "gpu": HPC | {"handlers": ["multicri-gpu"]}})
    assert found.of_pod(pod()).name == "default"
    assert found.of_pod(pod("")).name == "default"
    assert found.of_pod(pod("multicri-gpu")).name == "gpu"
    assert found.of_pod(pod("multicri-gpu", cluster="hpc")).name == "hpc"
    with pytest.raises(
        InvalidArgument, match=r"annotation slurm\.multicri\.io/cluster='x': must be one of default, gpu,"
    ):
        found.of_pod(pod(cluster="x"))


def test_a_cluster_has_from_the_section_what_it_does_not_set_but_for_where_and_who_it_is() -> None:
    found = profiles({"hpc": HPC | {"mount_path": "own"}}, mount_path="above", command_timeout_s=7, proxy_jump=["j"])
    settings = found.named("hpc").settings
    assert (settings.mount_path, settings.command_timeout_s, settings.proxy_jump) == ("own", 7, ())


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        ({}, r"slurm\.clusters\.hpc\.host: must be set"),
        ({"host": "a b"}, r"slurm\.clusters\.hpc\.host: must be a host name"),
        (
            {"host": "h", "user": "u"},
            r"slurm\.clusters\.hpc\.user: must be set together with key_file or password_file",
        ),
        ({"host": "h", "key_file": "/k"}, r"hpc\.user: must be set together with key_file"),
        (HPC | {"password_file": "/p"}, r"hpc\.key_file: must not be set together with password_file"),
        (HPC | {"key_file": "a/b"}, r"hpc\.key_file: must be an absolute path, or the name of a systemd credential"),
        ({"host": "h", "certificate_file": "/c"}, r"hpc\.certificate_file: goes with a key_file"),
        ({"host": "h", "users": {"team:builder": HPC}}, r"hpc\.users: 'team:builder': .* not its service account"),
        ({"host": "h", "users": {"Team": HPC}}, r"hpc\.users\.Team"),
        ({"host": "h", "users": {"team": {"user": "u"}}}, r"hpc\.users\.team\.user: must be set together with"),
        ({"host": "h", "pod_credentials": "forbid"}, r"hpc\.pod_credentials: .* set user or users"),
        ({"host": "h", "host_key": "AAAA"}, r"hpc\.host_key: must be a line as in a \.pub file"),
        ({"host": "h", "host_key_policy": "tofu"}, r"hpc\.host_key_policy: .* set allowed_hosts"),
        ({"host": "h", "proxy_jump": ["u@h"]}, r"hpc\.proxy_jump\.0: must be host\[:port\], or a mapping"),
        ({"host": "h", "proxy_jump": [{"host": "j", "user": "u"}]}, r"hpc\.proxy_jump\.0\.user: must be set together"),
        ({"host": "h", "max_jobs": 0}, r"hpc\.max_jobs"),
        ({"host": "h", "job_options_default": "--output=/x"}, r"hpc\.job_options_default: line 1: --output"),
        ({"host": "h", "handlers": ["kata"]}, r"hpc\.handlers: 'kata' is not among multicri, multicri-gpu: add it"),
        ({"host": "h", "prerun": "a\0"}, r"hpc\.prerun: must not hold a NUL byte"),
        ({"host": "h", "clusters": {}}, r"hpc\.clusters"),
        ([], r"slurm\.clusters\.hpc: must be settings"),
    ],
)
def test_a_setting_of_a_cluster_that_is_wrong_is_named_with_the_reason(cluster: object, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        profiles({"hpc": cluster})


def test_a_name_or_handler_that_is_taken_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"slurm\.clusters\.default: is the section slurm itself"):
        profiles({"default": HPC})
    with pytest.raises(InvalidArgument, match="'a/b' must be a name"):
        profiles({"a/b": HPC})
    gpu = HPC | {"handlers": ["multicri-gpu"]}
    with pytest.raises(
        InvalidArgument, match=r"clusters\.b\.handlers: 'multicri-gpu' is a handler of slurm\.clusters\.a"
    ):
        profiles({"a": gpu, "b": gpu})
    with pytest.raises(InvalidArgument, match=r"slurm\.user: must be set together"):
        profiles(user="x")
    with pytest.raises(InvalidArgument, match=r"slurm\.user: needs to know the cluster: set host"):
        profiles(user="x", key_file="/k")


def test_without_variables_a_pod_is_whom_its_namespace_is_mapped_to_else_the_profiles_user() -> None:
    users = {"team": {"user": "team", "key_file": "/t"}}
    login = profiles({"hpc": HPC | {"users": users}}).named("hpc").login_for
    assert str(login(read_variables({}), "team").account) == "team@login.hpc.example.org:22"
    assert str(login(read_variables({}), "other").account) == "svc@login.hpc.example.org:22"
    mapped_only = profiles({"hpc": {"host": "h", "users": users}}).named("hpc").login_for
    with pytest.raises(PermissionDenied, match=r"slurm\.clusters\.hpc\.users has nobody for the namespace 'other'"):
        mapped_only(read_variables({}), "other")


def test_a_pods_own_credentials_win_where_they_are_allowed_and_take_the_profiles_host_if_they_name_none() -> None:
    hpc = profiles({"hpc": HPC | {"port": 2222}}).named("hpc")
    assert str(hpc.login_for(read_variables(OWN), "team").account) == "alice@h:22"
    own = hpc.login_for(read_variables({k: v for k, v in OWN.items() if k != "CLUSTER_HOST"}), "team")
    assert str(own.account) == "alice@login.hpc.example.org:2222"
    assert own.proof is None
    closed = profiles({"hpc": HPC | {"pod_credentials": "forbid"}}).named("hpc")
    with pytest.raises(PermissionDenied, match=r"CLUSTER_USERNAME: slurm\.clusters\.hpc\.pod_credentials forbids"):
        closed.login_for(read_variables(OWN), "team")


@pytest.mark.parametrize(
    ("left_out", "reason"),
    [
        ("CLUSTER_USERNAME", "CLUSTER_USERNAME: must be set in the container's env"),
        ("CLUSTER_HOST", "CLUSTER_HOST: must be set in the container's env"),
        ("CLUSTER_PASSWORD", "exactly one of CLUSTER_PASSWORD and CLUSTER_KEYVALUE must be set"),
    ],
)
def test_where_the_settings_name_nobody_the_pod_must_say_who_it_is(left_out: str, reason: str) -> None:
    given = {name: value for name, value in OWN.items() if name != left_out}
    with pytest.raises(InvalidArgument, match=reason):
        profiles().named("default").login_for(read_variables(given), "team")


def test_text_that_runs_outside_of_the_container_needs_the_pods_own_account_or_the_admins_word() -> None:
    text = {"CLUSTER_CONFIG": b"cat ~/.ssh/*"}
    with pytest.raises(PermissionDenied, match=r"CLUSTER_CONFIG: .* set slurm\.clusters\.hpc\.pod_prerun"):
        profiles({"hpc": HPC}).named("hpc").login_for(read_variables(text), "team")
    profiles({"hpc": HPC | {"pod_prerun": True}}).named("hpc").login_for(read_variables(text), "team")
    profiles({"hpc": HPC}).named("hpc").login_for(read_variables(OWN | text), "team")


@pytest.mark.parametrize(
    ("settings", "variables", "words"),
    [
        ({"job_shell": True}, {}, ("/bin/sh", "-c", "a && b")),
        ({"job_shell": True}, {"JOB_SHELL": "false"}, ("a", "&&", "b")),
        ({}, {}, ("a", "&&", "b")),
    ],
)
def test_a_profile_says_whether_a_shell_reads_the_command_of_a_pod_that_does_not(
    settings: dict[str, object], variables: dict[str, str], words: tuple[str, ...]
) -> None:
    asked = plan(spec(variables, "a", "&&", "b"), profiles({}, **settings).named("default"))
    assert (*asked.command, *asked.args) == words


def test_a_profile_says_how_ranks_are_started_unless_the_pod_does() -> None:
    def starter(**variables: str) -> str:
        asked = plan(spec({"MPI_VERSION": "5.0.1", **variables}, "a"), profiles({}, mpi="pmi2").named("default"))
        assert asked.mpi is not None
        return asked.mpi.starter

    assert starter() == "pmi2"
    assert starter(MPI_FLAGS="--oversubscribe") == ""


def test_options_of_the_profile_lose_to_the_pods_own() -> None:
    hpc = profiles({}, job_options_default="--time=60 --partition=batch").named("default")
    options = plan(spec({"JOB_QUEUE": "gpu"}, "a"), hpc).options
    assert set(options) == {"--time=60", "--partition=gpu"}


def spec(variables: Mapping[str, str], *command: str) -> ContainerSpec:
    """A container that says who it is."""
    env = {name: value.decode() for name, value in OWN.items()} | dict(variables)
    return ContainerSpec(
        id=ContainerId("c"),
        pod=pod(),
        name="main",
        attempt=0,
        image=Image(id=ImageId("i"), source="docker://i", names=()),
        command=command,
        args=(),
        env=tuple((name, value.encode()) for name, value in env.items()),
        working_dir="",
        mounts=(),
    )


def test_an_account_is_found_again_as_long_as_the_settings_are_about_it() -> None:
    users = {"team": {"user": "team", "key_file": "/t"}}
    before = profiles({"hpc": HPC | {"users": users}}).named("hpc")
    account = before.login_for(read_variables({}), "team").account
    assert before.login_as(account).proof == before.login_for(read_variables({}), "team").proof
    moved = profiles({"hpc": HPC | {"users": users, "host": "elsewhere"}}).named("hpc")
    with pytest.raises(FailedPrecondition, match=r"slurm\.clusters\.hpc is no longer about team@login\.hpc"):
        moved.login_as(account)
    with pytest.raises(FailedPrecondition, match=r"the profile 'hpc' is gone from slurm\.clusters: put it back"):
        profiles().named("hpc")
