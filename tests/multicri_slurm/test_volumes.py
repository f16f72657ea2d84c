"""What becomes of a mount, from its paths; and how a container runtime is told."""

import csv

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multicri_slurm.runtimes import Bind, Container, Runtime, container_words
from multicri_slurm.settings import Settings, read_settings
from multicri_slurm.volumes import Kind, OnNode, decide

from multicri_proxy.api.adapter import Mount, Pod
from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.ids import PodSandboxId

UID = "3d9f2c1e-0000-4000-8000-000000000001"
PODS = "/var/lib/kubelet/pods"
OWN = f"{PODS}/{UID}"
OTHER = f"{PODS}/99999999-0000-4000-8000-000000000002"
SETTINGS = Settings(host_paths_allowed=("/srv/data",), volume_names={"pvc-7": "shared"})


def pod(**annotations: str) -> Pod:
    return Pod(
        sandbox_id=PodSandboxId("5" * 64),
        name="p",
        namespace="default",
        uid=UID,
        attempt=0,
        labels={},
        annotations={f"slurm.multicri.io/volume-name.{name}": value for name, value in annotations.items()},
    )


def on_node(real_paths: dict[str, str] | None = None) -> OnNode:
    return OnNode(
        plugins={"cfg": "kubernetes.io~configmap", "scratch": "kubernetes.io~empty-dir", "pv": "kubernetes.io~csi"},
        inner={f"{OWN}/volume-subpaths/scratch/main/0": "a/b"},
        real_paths={"/srv/data/x": "/srv/data/x", "/srv/link": "/etc", "/srv/database": "/srv/database"}
        | (real_paths or {}),
    )


def decided(
    host_path: str, container_path: str = "/x", *, readonly: bool = False, **annotations: str
) -> tuple[Kind, str]:
    mount = Mount(container_path=container_path, host_path=host_path, readonly=readonly)
    [volume] = decide([mount], pod(**annotations), on_node(), SETTINGS)
    return volume.kind, volume.name


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("volumes/kubernetes.io~configmap/cfg", Kind.PUBLISHED),
        ("volumes/kubernetes.io~secret/s", Kind.PUBLISHED),
        ("volumes/kubernetes.io~projected/kube-api-access-abcde", Kind.PUBLISHED),
        ("volumes/kubernetes.io~downward-api/info", Kind.PUBLISHED),
        ("volumes/kubernetes.io~empty-dir/scratch", Kind.SHARED),
        ("volume-subpaths/cfg/main/3", Kind.COPIED),
        ("volume-subpaths/scratch/main/0", Kind.SHARED),
        ("etc-hosts", Kind.HOSTS),
        ("containers/main/0a1b2c3d", Kind.MESSAGE),
    ],
)
def test_the_kubelets_own_paths_say_what_they_are(path: str, kind: Kind) -> None:
    assert decided(f"{OWN}/{path}")[0] is kind


@pytest.mark.parametrize("path", ["kubernetes.io~csi/pv/mount", "kubernetes.io~nfs/pv", "vendor~flex/pv"])
def test_other_volumes_are_copied_if_nothing_can_be_lost_and_take_results_at_multicri(path: str) -> None:
    host_path = f"{OWN}/volumes/{path}"
    assert decided(host_path, readonly=True) == (Kind.COPIED, "")
    assert decided(host_path, "multicri") == (Kind.RESULTS, "pv")
    assert decided(host_path, "/multicri/") == (Kind.RESULTS, "pv")
    with pytest.raises(
        InvalidArgument, match=r"'/x': volume 'pv' .* would be lost: mount it readOnly, or at '/multicri'"
    ):
        decided(host_path)


def test_the_directory_for_results_is_named_by_annotation_then_by_setting_then_by_the_volume() -> None:
    volume = f"{OWN}/volumes/kubernetes.io~nfs/pvc-7"
    assert decided(volume, "/multicri", **{"pvc-7": "mine"}) == (Kind.RESULTS, "mine")
    assert decided(volume, "/multicri") == (Kind.RESULTS, "shared")


@pytest.mark.parametrize("name", ["..", "a/b", "", "images", "-rf", "f" * 64, "a\nb", "$HOME"])
def test_an_annotation_names_no_path_out_of_the_working_directory(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"annotation slurm\.multicri\.io/volume-name\.pvc-7"):
        decided(f"{OWN}/volumes/kubernetes.io~nfs/pvc-7", "/multicri", **{"pvc-7": name})


@pytest.mark.parametrize(
    ("host_path", "reason"),
    [
        ("/", "the node's own"),
        ("/proc/1/root", "the node's own"),
        ("/sys/fs/cgroup", "the node's own"),
        ("/dev/nvidia0", "the node's own"),
        ("/run/containerd/containerd.sock", "host_paths_allowed"),
        ("/srv/database", "host_paths_allowed"),
        ("/srv/link", "host_paths_allowed"),
        ("/srv/data/x", "readOnly"),
        (f"{OTHER}/volumes/kubernetes.io~secret/s", "host_paths_allowed"),
        (f"{OWN}/../{OTHER}/volumes/kubernetes.io~secret/s", "host_paths_allowed"),
        (f"{OWN}/volumes/kubernetes.io~secret/../../etc-hosts", "host_paths_allowed"),
        (f"{OWN}/plugins/x/y", "nothing that the kubelet"),
        (f"{OWN}/volumes/kubernetes.io~empty-dir/-rf", "no volume's name"),
        (f"{OWN}/volume-subpaths/scratch/main/7", "only a directory"),
        (f"{OWN}/volume-subpaths/pv/main/0", "would be lost"),
        (f"{OWN}/volume-subpaths/unheard-of/main/0", "would be lost"),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_reason(host_path: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        decided(host_path)


def test_what_an_allowed_host_path_leads_to_is_read_and_not_the_link() -> None:
    mounts = [Mount(container_path="/x", host_path="/srv/alias", readonly=True)]
    [volume] = decide(mounts, pod(), on_node({"/srv/alias": "/srv/data/x"}), SETTINGS)
    assert (volume.kind, volume.host_path) == (Kind.COPIED, "/srv/data/x")


def test_every_mount_that_cannot_be_had_is_named_in_one_error() -> None:
    mounts = [Mount(container_path=f"/m{n}", host_path=path, readonly=False) for n, path in enumerate(["/", "/proc"])]
    with pytest.raises(InvalidArgument, match=r"'/m0': .*; mountPath '/m1': "):
        decide(mounts, pod(), on_node(), SETTINGS)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "//",
        "/a/../b",
        "/proc/x",
        "/sys",
        "/dev",
        "/a\nb",
        "/.singularity.d/env/x",
        "/" + "n" * 256,
        "/a" * 2100,
    ],
)
def test_a_path_that_is_no_place_for_a_mount_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        decided(f"{OWN}/volumes/kubernetes.io~configmap/cfg", path)


def test_two_mounts_at_one_place_are_refused() -> None:
    config = f"{OWN}/volumes/kubernetes.io~configmap/cfg"
    mounts = [Mount(container_path=path, host_path=config, readonly=True) for path in ("/a/b", "a//b/")]
    with pytest.raises(InvalidArgument, match="mounted twice"):
        decide(mounts, pod(), on_node(), SETTINGS)


def test_an_admin_cannot_allow_the_whole_node_by_mistake() -> None:
    for path in ("/", "/proc", "srv", "/srv/../etc", "/srv/"):
        with pytest.raises(InvalidArgument, match="host_paths_allowed"):
            read_settings({"host_paths_allowed": [path]})


PARTS = st.sampled_from(
    [
        "volumes",
        "kubernetes.io~secret",
        "kubernetes.io~csi",
        "mount",
        "etc-hosts",
        "containers",
        "..",
        ".",
        "",
        "s",
        UID,
    ]
)
PATHS = st.one_of(
    st.text(max_size=60),
    st.builds(
        lambda top, parts: "/".join([top, *parts]),
        st.sampled_from([OWN, OTHER, PODS, "/srv/data", ""]),
        st.lists(PARTS, max_size=6),
    ),
)


@given(PATHS, st.text(max_size=40), st.booleans())
@example(f"{OWN}x/etc-hosts", "/x", True)
def test_no_path_leads_to_another_pods_or_the_nodes_files(host_path: str, container_path: str, readonly: bool) -> None:
    mount = Mount(container_path=container_path, host_path=host_path, readonly=readonly)
    try:
        [volume] = decide([mount], pod(), on_node({host_path: host_path}), SETTINGS)
    except InvalidArgument:
        return
    below = host_path.removeprefix(f"{OWN}/") if host_path.startswith(f"{OWN}/") else None
    if below is None:
        assert host_path.startswith("/srv/data")
        assert readonly
    else:
        assert not {"", ".", ".."} & set(below.split("/"))
    assert volume.container_path.startswith("/")
    assert not {"", ".", ".."} & set(volume.container_path[1:].split("/"))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60), st.booleans())
@example("a,b", True)
@example('a"b', False)
@example("a b:c'd=e\\f", True)
def test_apptainer_reads_a_mount_as_it_was_meant(name: str, readonly: bool) -> None:
    bind = Bind(source="/home/a/v/0", destination=f"/{name}", readonly=readonly)
    words = container_words(
        Container(
            runtime=Runtime(kind="apptainer"), image="/i.sif", command=("c",), args=(), working_dir="", binds=(bind,)
        )
    )
    [text] = [words[at + 1] for at, word in enumerate(words) if word == "--mount"]
    [fields] = csv.reader([text])
    assert fields == ["type=bind", "source=/home/a/v/0", f"destination=/{name}", *(["ro"] if readonly else [])]


def test_charliecloud_binds_word_by_word() -> None:
    runtime = Runtime(kind="charliecloud", options=frozenset({"--write-fake"}))
    bind = Bind(source="/home/b/v/0", destination="/a b,c", readonly=True)
    words = container_words(
        Container(runtime=runtime, image="/i", command=("c",), args=(), working_dir="", binds=(bind,))
    )
    assert "--bind=/home/b/v/0:/a b,c" in words
