"""What a supervisor and ch-run are to do for a container, worked out from its copy of the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multicri_charliecloud import inside
from multicri_charliecloud.directories import ContainerDirectory
from multicri_charliecloud.image_config import read_image_config, stop_signal_in
from multicri_charliecloud.job import (
    Paths,
    command_of,
    environment_file,
    environment_of,
    groups_of,
    inherited_of,
    owners_of,
    resolv_conf,
    stop_signal_of,
    sysctls_of,
    user_of,
    words_of,
)
from multicri_charliecloud.programs import environment
from multicri_charliecloud.settings import Identity
from multicri_proxy.api.adapter import ContainerSpec, Mount
from multicri_proxy.api.errors import FailedPrecondition

LARGEST_ACCOUNTS_BYTES = 1024 * 1024


def prepare(
    spec: ContainerSpec, directory: ContainerDirectory, ch_run: str, options: frozenset[str], identity: Identity | None
) -> None:
    """Make the mount points and write the job. On the disk: not for the event loop.

    Raises InvalidArgument or FailedPrecondition, naming what cannot be had.
    """
    image = str(directory.image)
    config = spec.image.config or read_image_config(image)
    passwd, group = (inside.read(image, f"/etc/{name}", LARGEST_ACCOUNTS_BYTES) or b"" for name in ("passwd", "group"))
    user = user_of(spec, config, passwd, group)
    variables = environment_of(spec, config, user)
    env_file = environment_file(variables, options)
    inherited = {
        name: value.decode("utf-8", "surrogateescape") for name, value in inherited_of(variables, options).items()
    }
    own = environment(identity)
    unset = [name for name in own if name not in inherited] if inherited else ["*"]
    working_dir = f"/{(spec.working_dir or config.working_dir).strip('/')}"
    inside.make(image, working_dir, directory=True)
    inside.make(image, "/tmp", directory=True)  # noqa: S108  (the container's)

    staged, device_binds = [], []
    hosts: dict[str, str] = {}
    places = {"": ""}  # where each mount is staged; ch-run itself mounts nothing below another mount of its own
    binds = [(str(directory.devices), "/dev")]
    for number, mount in enumerate(_in_order(spec.mounts, f"{image}/tmp")):  # noqa: S108
        path, is_directory = mount.container_path.rstrip("/"), _is_directory(mount)
        if path.startswith("/dev/"):
            target = f"{directory.devices}{path.removeprefix('/dev')}"
            device_binds.append((mount.host_path, target, mount.readonly, False))
            continue
        outer = max((one for one in places if path.startswith(f"{one}/")), key=len)
        if outer:
            within = path.removeprefix(outer)
            inside.make_without_links(hosts[outer], within, directory=is_directory)
            places[path] = places[outer] + within
        else:
            places[path] = str(directory.mount(number))
            binds.append((places[path], inside.make(image, path, directory=is_directory)))
        hosts[path] = mount.host_path
        staged.append((mount.host_path, places[path], mount.readonly, mount in spec.mounts))

    for path, source in _of_the_node(spec, directory).items():
        if path not in hosts and "/etc" not in hosts:
            binds.append((str(source), inside.make(image, path, directory=False)))

    paths = Paths(ch_run=ch_run, image=image, env_file=str(directory.env_file), binds=tuple(binds))
    command = command_of(spec, config)
    job: dict[str, Any] = {
        "words": words_of(
            command, working_dir, user, paths, options, readonly=spec.security.readonly_rootfs, unset=unset
        ),
        "identity": [identity.user_id, identity.group_id] if identity else None,
        "owners": owners_of(user, identity),
        "groups": groups_of(spec, is_root=identity is not None),
        "network": spec.pod.network_namespace,
        "hostname": spec.pod.hostname,
        "node_ipc": spec.security.node_ipc,
        "sysctls": sysctls_of(spec, is_root=identity is not None),
        "masked": _in_the_kernels(spec.security.masked_paths),
        "protected": _in_the_kernels(spec.security.readonly_paths),
        "binds": staged,
        "devices": str(directory.devices),
        "device_binds": device_binds,
        "stdin": spec.stdin,
        "stdin_once": spec.stdin_once,
        "tty": spec.tty,
        "stop_signal": stop_signal_of(spec, stop_signal_in(image)),
        "oom_score_adj": spec.resources.oom_score_adj,
        "environment": own | inherited,
        "working_dir": working_dir,
        "variables": {name: value.decode("utf-8", "surrogateescape") for name, value in variables.items()},
    }
    directory.write_job(job, env_file, identity)


def _of_the_node(spec: ContainerSpec, directory: ContainerDirectory) -> dict[str, Path]:
    """Files of /etc that are no part of the image, by their paths in the container."""
    found = {"/etc/hosts": Path("/etc/hosts"), "/etc/resolv.conf": Path("/etc/resolv.conf")}
    if text := resolv_conf(spec.pod.dns):
        found["/etc/resolv.conf"] = directory.write("resolv.conf", text)
    if spec.pod.hostname:
        found["/etc/hostname"] = directory.write("hostname", f"{spec.pod.hostname}\n")
    return {path: source for path, source in found.items() if source.is_file()}


def _in_the_kernels(paths: Sequence[str]) -> list[str]:
    """Those that Linux has: the kubelet names no others."""
    return [path for path in paths if path.startswith(("/proc/", "/sys/")) and ".." not in path.split("/")]


def _in_order(mounts: Sequence[Mount], tmp: str) -> list[Mount]:
    """Outer ones first. /tmp is one, of the container's own: else ch-run has the node's there."""
    found = sorted(mounts, key=lambda one: one.container_path.rstrip("/"))
    if any(one.container_path.rstrip("/") == "/tmp" for one in found):  # noqa: S108
        return found
    return [Mount(container_path="/tmp", host_path=tmp, readonly=False), *found]  # noqa: S108


def _is_directory(mount: Mount) -> bool:
    path = Path(mount.host_path)
    if not path.exists():
        raise FailedPrecondition(f"mounts: host_path {mount.host_path!r} is not there")
    return path.is_dir()
