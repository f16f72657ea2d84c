"""What becomes of each path of the node that a container mounts: decided from what the paths say. Pure.

The kubelet keeps a pod's volumes in ``<kubelet's directory>/pods/<uid>``, and the paths there tell what they are:

    volumes/<plugin>/<volume>                    plugin: kubernetes.io~configmap, kubernetes.io~nfs, ...
    volumes/kubernetes.io~csi/<volume>/mount
    volume-subpaths/<volume>/<container>/<n>     a subPath
    etc-hosts
    containers/<container>/<random>              terminationMessagePath

Only the pod's own directory is believed: every other path is a hostPath.
Source: kubelet_pods.go (makeMounts), volume/util, subpath.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from multicri_proxy.api.adapter import Mount, Pod
from multicri_proxy.api.errors import InvalidArgument
from multicri_slurm.settings import Settings

EMPTY_DIR = "kubernetes.io~empty-dir"
RESULTS_PATH = "/multicri"
NAME_ANNOTATION = "slurm.multicri.io/volume-name."

_PUBLISHED = frozenset(f"kubernetes.io~{name}" for name in ("configmap", "secret", "projected", "downward-api"))
_HOST_TREES = ("/proc", "/sys", "/dev")
_VOLUME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)
_SANDBOX_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OF_THE_RUNTIMES = ("/proc", "/sys", "/.singularity.d", "/.multicri")
_LONGEST_NAME_BYTES, _LONGEST_PATH_BYTES = 255, 4095


class Kind(Enum):
    """What is done with a mount.

    PUBLISHED: copied, and again when the kubelet publishes a new version of it. COPIED: copied once.
    SHARED: a directory that the pod's containers share in the cluster. RESULTS: a directory of the volume that the
    cluster has mounted too. MESSAGE: an empty file, brought back when the container has ended. HOSTS: /etc/hosts.
    """

    PUBLISHED = "published"
    COPIED = "copied"
    SHARED = "shared"
    RESULTS = "results"
    MESSAGE = "message"
    HOSTS = "hosts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One mount, decided upon.

    number: its place among the container's mounts, which names its files in the cluster.
    container_path: absolute and clean. name: of the directory in the cluster, for SHARED and RESULTS.
    is_host_path: host_path is none of the pod's own directory, and has no links.
    """

    number: int
    kind: Kind
    container_path: str
    host_path: str
    readonly: bool
    name: str = ""
    is_host_path: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OnNode:
    """What the paths alone do not tell.

    plugins: the plug-in of each volume of the pod. inner: where in its emptyDir a subPath lies, by its host path.
    real_paths: of the paths outside of the pod's directory, with symbolic links resolved.
    """

    plugins: Mapping[str, str]
    inner: Mapping[str, str]
    real_paths: Mapping[str, str]


def pod_directory(settings: Settings, pod: Pod) -> str:
    return f"{settings.kubelet_directory}/pods/{pod.uid}"


def decide(mounts: Sequence[Mount], pod: Pod, on_node: OnNode, settings: Settings) -> tuple[Volume, ...]:
    """Raises InvalidArgument that names every mount which cannot be carried, and why."""
    volumes: list[Volume] = []
    refusals: list[str] = []
    seen: set[str] = set()
    for number, mount in enumerate(mounts):
        try:
            container_path = _container_path(mount.container_path)
            kind, name = _kind(container_path, mount, pod, on_node, settings)
        except InvalidArgument as error:
            refusals.append(f"mountPath {mount.container_path[:200]!r}: {error}")
            continue
        if container_path in seen:
            refusals.append(f"mountPath {container_path!r}: is mounted twice")
        seen.add(container_path)
        volumes.append(
            Volume(
                number=number,
                kind=kind,
                container_path=container_path,
                host_path=on_node.real_paths.get(mount.host_path, mount.host_path),
                readonly=mount.readonly or kind in {Kind.PUBLISHED, Kind.HOSTS},
                name=name,
                is_host_path=mount.host_path in on_node.real_paths,
            )
        )
    if refusals:
        raise InvalidArgument(f"volumes that cannot be had in the cluster: {'; '.join(refusals)}")
    return tuple(volumes)


def _kind(  # noqa: PLR0911  (a table)
    container_path: str, mount: Mount, pod: Pod, on_node: OnNode, settings: Settings
) -> tuple[Kind, str]:
    """What is done with a mount, and the name of its directory in the cluster, where that matters."""
    match _parts_below(pod_directory(settings, pod), mount.host_path):
        case None:
            _check_host_path(mount, on_node, settings)
            return Kind.COPIED, ""
        case ["etc-hosts"]:
            return Kind.HOSTS, ""
        case ["containers", _, _]:
            return Kind.MESSAGE, ""
        case ["volumes", plugin, _] if plugin in _PUBLISHED:
            return Kind.PUBLISHED, ""
        case ["volumes", plugin, name] if plugin == EMPTY_DIR:
            return Kind.SHARED, _checked(name)
        case ["volumes", plugin, name] | ["volumes", plugin, name, "mount"]:
            if container_path == RESULTS_PATH:
                return Kind.RESULTS, _results_name(name, mount, pod, settings)
            _check_readonly(f"volume {name!r} ({plugin})", mount)
            return Kind.COPIED, ""
        case ["volume-subpaths", name, _, _]:
            return _subpath(name, container_path, mount, on_node)
    raise InvalidArgument(f"{mount.host_path!r} is nothing that the kubelet is known to mount")


def _subpath(name: str, container_path: str, mount: Mount, on_node: OnNode) -> tuple[Kind, str]:
    plugin = on_node.plugins.get(name, "")
    if plugin == EMPTY_DIR:
        if (inner := on_node.inner.get(mount.host_path)) is None:
            raise InvalidArgument(f"of the emptyDir {name!r} only a directory can be a subPath")
        digest = hashlib.sha256(inner.encode("utf-8", "surrogateescape")).hexdigest()
        return Kind.SHARED, f"{_checked(name)}@{digest[:16]}"
    if plugin not in _PUBLISHED:
        if container_path == RESULTS_PATH:
            raise InvalidArgument("takes a whole volume, without a subPath: each container has a directory of its own")
        _check_readonly(f"a subPath of volume {name!r} ({plugin or 'of an unknown kind'})", mount)
    return Kind.COPIED, ""


def _results_name(name: str, mount: Mount, pod: Pod, settings: Settings) -> str:
    if mount.readonly:
        raise InvalidArgument("is where results are written: it must not be readOnly")
    wanted = pod.annotations.get(f"{NAME_ANNOTATION}{name}", settings.volume_names.get(name, name))
    if not _VOLUME_NAME.fullmatch(wanted) or wanted == "images" or _SANDBOX_ID.fullmatch(wanted):
        raise InvalidArgument(
            f"annotation {NAME_ANNOTATION}{name}: {wanted[:80]!r} must be the name of a directory, of A-Z a-z 0-9 . _ -"
        )
    return wanted


def _check_readonly(what: str, mount: Mount) -> None:
    if not mount.readonly:
        raise InvalidArgument(
            f"{what} is copied into the cluster, so what is written there would be lost: "
            f"mount it readOnly, or at {RESULTS_PATH!r} if the cluster has mounted it too"
        )


def _check_host_path(mount: Mount, on_node: OnNode, settings: Settings) -> None:
    path = mount.host_path
    real_path = on_node.real_paths.get(path, "")
    if "/" in {real_path, path} or any(_is_below(tree, place) for tree in _HOST_TREES for place in (real_path, path)):
        raise InvalidArgument(f"hostPath {path!r} is the node's own, and means nothing in the cluster")
    if not real_path or not any(_is_below(allowed, real_path) for allowed in settings.host_paths_allowed):
        raise InvalidArgument(f"hostPath {path!r} is not below one that the admin allows with slurm.host_paths_allowed")
    _check_readonly(f"hostPath {path!r}", mount)


def _container_path(path: str) -> str:
    """As the kubelet makes it: a relative one begins at the root."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    clean = "/" + "/".join(parts)
    if not parts or ".." in parts or _CONTROL.search(clean):
        raise InvalidArgument("must be a path other than the root, without '..' and control characters")
    if len(clean.encode()) > _LONGEST_PATH_BYTES or any(len(part.encode()) > _LONGEST_NAME_BYTES for part in parts):
        raise InvalidArgument(f"a path has at most {_LONGEST_PATH_BYTES} bytes, {_LONGEST_NAME_BYTES} in each part")
    if clean == "/dev" or any(_is_below(tree, clean) for tree in _OF_THE_RUNTIMES):
        raise InvalidArgument("belongs to the container runtime of the cluster")
    return clean


def _checked(name: str) -> str:
    if not _VOLUME_NAME.fullmatch(name):
        raise InvalidArgument(f"{name[:80]!r} is no volume's name")
    return name


def _parts_below(directory: str, path: str) -> list[str] | None:
    """The parts of a clean path below a directory; None if it is not there."""
    if not path.startswith(f"{directory}/"):
        return None
    parts = path.removeprefix(f"{directory}/").split("/")
    return None if {"", ".", ".."} & set(parts) else parts


def _is_below(directory: str, path: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def outside_of_pod(mounts: Iterable[Mount], directory: str) -> list[str]:
    """The host paths that are not in the pod's directory."""
    return [mount.host_path for mount in mounts if _parts_below(directory, mount.host_path) is None]


def subpaths(mounts: Iterable[Mount], directory: str) -> dict[str, str]:
    """The volume's name of each host path that is a subPath."""
    return {
        mount.host_path: parts[1]
        for mount in mounts
        if (parts := _parts_below(directory, mount.host_path)) and parts[0] == "volume-subpaths" and len(parts) == 4
    }
