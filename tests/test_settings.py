"""Flags, environment and file."""

from pathlib import Path

import pytest

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.places import socket_directory, state_directory
from multicri_proxy.checking import load
from multicri_proxy.settings import Settings


def loaded(file: Path | None = None, environment: dict[str, str] | None = None, **flags: str) -> Settings:
    return load(flags=flags, environment=environment or {}, file=file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_a_flag_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text("socket_path: /f.sock\nhandler: from-file\nroot_dir: /f\n")
    environment = {"MULTICRI_SOCKET_PATH": "/e.sock", "MULTICRI_HANDLER": "from-environment"}
    settings = loaded(file, environment, socket_path="/flag.sock")
    assert settings.socket_path == Path("/flag.sock")
    assert settings.handler == ("from-environment",)
    assert settings.root_dir == Path("/f")


def test_a_variable_that_is_nearly_a_setting_is_refused_and_one_that_is_none_is_somebody_elses() -> None:
    with pytest.raises(InvalidArgument, match="did you mean socket_path"):
        loaded(None, {"MULTICRI_SOCKET_PAHT": "/x.sock"})
    assert loaded(None, {"MULTICRI_TESTBED": "/var/tmp/bed"}) == Settings(adapter_name="slurm")


def test_an_adapters_section_comes_from_the_file_and_from_its_own_variables(file: Path) -> None:
    file.write_text("slurm:\n  mount_path: a\n  known_hosts: /k\n")
    settings = loaded(file, {"CRI_SLURM_MOUNT_PATH": "b", "CRI_SLURM_BUILD_IN_CLUSTER": "true"})
    assert settings.adapters == {"slurm": {"mount_path": "b", "known_hosts": "/k", "build_in_cluster": "true"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default:/run/a.sock,kata:/run/k.sock", {"default": "/run/a.sock", "kata": "/run/k.sock"}),
        ("default:unix:///run/a.sock", {"default": "/run/a.sock"}),
        ("default:unix:/run/a.sock", {"default": "/run/a.sock"}),
        ("", {}),
    ],
)
def test_endpoints_are_names_and_paths_with_or_without_a_scheme(text: str, expected: dict[str, str]) -> None:
    assert loaded(remote_runtime_endpoints=text).remote_runtime_endpoints == expected


def test_several_handlers_are_a_list_in_the_file_and_words_parted_by_commas_elsewhere(file: Path) -> None:
    file.write_text("handler: [multicri, multicri-gpu]\n")
    assert loaded(file).handler == loaded(handler="multicri, multicri-gpu").handler == ("multicri", "multicri-gpu")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kata:/run/k.sock", "'kata' is no name in remote_runtime_endpoints"),
        ("default:k.sock", "default: 'k.sock' is no absolute path"),
        ("default:/run/multicri.sock", "default is our own socket_path"),
    ],
)
def test_an_image_endpoint_is_that_of_a_runtime_and_a_path(text: str, complaint: str) -> None:
    assert loaded(remote_image_endpoints="default:/run/i.sock").remote_image_endpoints == {"default": "/run/i.sock"}
    with pytest.raises(InvalidArgument, match=f"remote_image_endpoints.*{complaint}"):
        loaded(remote_image_endpoints=text)


def test_a_socket_path_may_have_the_kubelets_scheme() -> None:
    assert loaded(socket_path="unix:///run/m.sock").socket_path == Path("/run/m.sock")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"stream_addr": "localhost"}, r"stream_addr \(from --stream-addr\): 'localhost' is no IP address; write 127"),
        ({"stream_port": "65536"}, "stream_port .* less than or equal to 65535"),
        ({"stream_tls_cert": "/a.pem"}, "stream_tls_cert .* wants stream_tls_key"),
        ({"stream_tls_cert": "/a.pem", "stream_tls_key": "/b.pem"}, "stream_tls_cert .* not used unless stream_tls"),
        ({"network_conf_dir": "net.d"}, "network_conf_dir .*'net.d' is no absolute path"),
        ({"sandbox_image": "pause:3.9"}, "sandbox_image .* no pause container"),
        ({"enable_pod_persistence": "false"}, "enable_pod_persistence .* submitted twice"),
        ({"enable_pod_persistence": "perhaps"}, "enable_pod_persistence .* valid boolean"),
        ({"remote_runtime_endpoints": "/run/a.sock"}, "is no name:path"),
        ({"remote_runtime_endpoints": "unix:///run/a.sock"}, "is no name:path"),
        ({"remote_runtime_endpoints": "default:/a,default:/b"}, "'default' is named twice"),
        ({"remote_runtime_endpoints": "default:a.sock"}, "default: 'a.sock' is no absolute path"),
        ({"remote_runtime_endpoints": "default:/run/multicri.sock"}, "our own socket_path"),
        ({"remote_runtime_endpoints": "multicri:/run/a.sock"}, "handler.* is the name of an endpoint too"),
        ({"socket_path": "m.sock"}, "'m.sock' is no absolute path"),
        ({"metrics_address": "0.0.0.0:9464"}, "metrics_address .* is neither a loopback address"),
        ({"metrics_address": "127.0.0.1"}, "metrics_address .* is neither a loopback address"),
        ({"handler": ""}, "handler .* at least 1 character"),
        ({"handler": "Multi CRI"}, "handler .* no RuntimeClass handler"),
        ({"handler": "multicri,"}, "handler .* at least 1 character"),
        ({"handler": "a,a"}, "handler .*'a' is named twice"),
        ({"socket_mode": "rw"}, "socket_mode .* no octal mode"),
        ({"socket_owner": "root"}, "socket_owner .* no user:group"),
        ({"log_level": "loud"}, "log_level .*'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name_its_source_and_the_mend(flags: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        loaded(**flags)


def test_what_is_off_anyway_may_be_said(file: Path) -> None:
    file.write_text("enable_pod_network: false\nenable_pod_persistence: true\n")
    assert not loaded(file).enable_pod_network


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("socket_pth: /a", r"socket_pth \(in .*config.yaml\) is no setting; did you mean socket_path"),
        ("- a", "wants settings as 'name: value', found list"),
        ("a: [", "cannot read the configuration file"),
    ],
)
def test_a_bad_file_is_refused_with_its_path(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=message):
        loaded(file)


def test_a_file_that_is_not_there_is_refused_with_its_path(file: Path) -> None:
    with pytest.raises(InvalidArgument, match=str(file)):
        loaded(file)


@pytest.mark.parametrize(
    ("text", "adapter"),
    [
        ("", "slurm"),
        ("remote_runtime_endpoints: {}\n", "charliecloud"),
        ("remote_runtime_endpoints: {}\nslurm: {known_hosts: /k}\n", "slurm"),
        ("remote_runtime_endpoints: {}\nadapter_name: slurm\n", "slurm"),
        ("adapter_name: charliecloud\n", "charliecloud"),
    ],
)
def test_without_a_runtime_and_a_cluster_pods_run_on_this_node(file: Path, text: str, adapter: str) -> None:
    file.write_text(text)
    assert loaded(file).adapter_name == adapter


def test_an_ordinary_users_daemon_keeps_its_things_in_places_of_the_users() -> None:
    given = {"XDG_STATE_HOME": "/home/a/state", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert state_directory(7, given) == Path("/home/a/state/multicri-proxy")
    assert socket_directory(7, given) == Path("/run/user/7")
    assert state_directory(7, {"XDG_STATE_HOME": "relative"}) == socket_directory(7, {})
    assert state_directory(7, {}).parts[-3:] == (".local", "state", "multicri-proxy")
    assert (state_directory(0, given), socket_directory(0, given)) == (Path("/var/lib/multicri-proxy"), Path("/run"))
