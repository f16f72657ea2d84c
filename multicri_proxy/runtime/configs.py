"""What RunPodSandbox and CreateContainer ask for: checked, and turned into records and an adapter's words."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from multicri_proxy.api.adapter import ContainerSpec, Demand, Dns, Mount, Pod, Resources, SecurityContext
from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.ids import ContainerId, PodSandboxId
from multicri_proxy.api.image import Image
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.records import Container, Sandbox

_LEAST_CPU_SHARES, _SHARES_PER_CPU = 2, 1024
_MESSAGE_PATH = "io.kubernetes.container.terminationMessagePath"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def sandbox_record(
    config: cri.PodSandboxConfig, *, sandbox_id: PodSandboxId, runtime_handler: str, ip: str, now_ns: int
) -> Sandbox:
    """Raises InvalidArgument, naming the field."""
    metadata = config.metadata
    for field, value in (("name", metadata.name), ("uid", metadata.uid), ("namespace", metadata.namespace)):
        _need(f"config.metadata.{field}", value)
    if config.log_directory and not _is_clean_path(config.log_directory, absolute=True):
        raise InvalidArgument(f"config.log_directory {config.log_directory!r} must be an absolute path without '..'")
    return Sandbox(
        id=sandbox_id,
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        attempt=metadata.attempt,
        labels=dict(config.labels),
        annotations=_kept(config.annotations),
        runtime_handler=runtime_handler,
        log_directory=config.log_directory,
        namespace_options=config.linux.security_context.namespace_options.SerializeToString(),
        ip=ip,
        created_at_ns=now_ns,
    )


def _kept(annotations: Mapping[str, str]) -> dict[str, str]:
    """All but kubectl's copy of the pod, where credentials may stand that a ledger must not hold in the clear."""
    return {key: value for key, value in annotations.items() if key != _LAST_APPLIED}


def check_container(config: cri.ContainerConfig) -> None:
    """Raises InvalidArgument, naming the field: nothing after this may find the text itself unusable."""
    _need("config.metadata.name", config.metadata.name)
    _need("config.image.image", config.image.image)
    for index, text in enumerate(config.command):
        _no_nul(f"config.command[{index}]", text)
    for index, text in enumerate(config.args):
        _no_nul(f"config.args[{index}]", text)
    _no_nul("config.working_dir", config.working_dir)
    for index, variable in enumerate(config.envs):
        _need(f"config.envs[{index}].key", variable.key)
        if "=" in variable.key:
            raise InvalidArgument(f"config.envs[{index}].key: {variable.key!r} has a '='")
        if b"\0" in bytes(variable.value):
            raise InvalidArgument(f"config.envs[{index}].value ({variable.key}) has a NUL byte")
    for index, mount in enumerate(config.mounts):
        if mount.HasField("image"):
            raise InvalidArgument(f"config.mounts[{index}]: an image as a volume cannot be mounted into a multicri pod")
        _need(f"config.mounts[{index}].container_path", mount.container_path)
        _need(f"config.mounts[{index}].host_path", mount.host_path)
    if config.log_path and not _is_clean_path(config.log_path, absolute=False):
        raise InvalidArgument(f"config.log_path {config.log_path!r} must be a relative path without '..'")


def container_record(
    config: cri.ContainerConfig, sandbox: Sandbox, image: Image, *, container_id: ContainerId, now_ns: int
) -> Container:
    return Container(
        id=container_id,
        sandbox_id=sandbox.id,
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        labels=dict(config.labels),
        annotations=_kept(config.annotations),
        image_name=config.image.user_specified_image or config.image.image,
        image_id=image.id,
        mounts=tuple(mount.SerializeToString() for mount in config.mounts),
        log_path=config.log_path if sandbox.log_directory else "",
        config_digest=config_digest(config),
        created_at_ns=now_ns,
    )


def container_spec(
    config: cri.ContainerConfig,
    pod: cri.PodSandboxConfig,
    sandbox: Sandbox,
    image: Image,
    *,
    container_id: ContainerId,
    network_namespace: str,
) -> ContainerSpec:
    """pod: the sandbox's configuration as it is now: since the sandbox was made, the pod may have been resized.

    network_namespace: the pod's own, if it has one.
    """
    return ContainerSpec(
        id=container_id,
        pod=Pod(
            sandbox_id=sandbox.id,
            name=sandbox.name,
            namespace=sandbox.namespace,
            uid=sandbox.uid,
            attempt=sandbox.attempt,
            labels=sandbox.labels,
            annotations=sandbox.annotations,
            runtime_handler=sandbox.runtime_handler,
            resources=resources_of(pod.linux.resources),
            cgroup_parent=pod.linux.cgroup_parent,
            hostname=pod.hostname,
            dns=Dns(
                servers=tuple(pod.dns_config.servers),
                searches=tuple(pod.dns_config.searches),
                options=tuple(pod.dns_config.options),
            ),
            network_namespace=network_namespace,
            sysctls=dict(pod.linux.sysctls),
        ),
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        image=image,
        command=tuple(config.command),
        args=tuple(config.args),
        env=tuple((variable.key, bytes(variable.value)) for variable in config.envs),
        working_dir=config.working_dir,
        mounts=tuple(
            Mount(container_path=mount.container_path, host_path=mount.host_path, readonly=mount.readonly)
            for mount in config.mounts
        ),
        resources=resources_of(config.linux.resources),
        security=security_of(config),
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        stop_signal=_signal(config.stop_signal),
    )


def resources_of(linux: cri.LinuxContainerResources) -> Resources:
    """cpu_shares are 1024 for a CPU; the kubelet says 2 where a pod asks for none.

    Source: pkg/kubelet/cm/helpers_linux.go, MilliCPUToShares and MilliCPUToQuota.
    """
    limited = linux.cpu_quota > 0 and linux.cpu_period > 0
    return Resources(
        cpu_millicores=-(-linux.cpu_quota * 1000 // linux.cpu_period) if limited else None,
        cpu_request_millicores=-(-linux.cpu_shares * 1000 // _SHARES_PER_CPU)
        if linux.cpu_shares > _LEAST_CPU_SHARES
        else None,
        memory_bytes=linux.memory_limit_in_bytes if linux.memory_limit_in_bytes > 0 else None,
        oom_score_adj=max(-1000, min(1000, linux.oom_score_adj)),
    )


def changed_resources(linux: cri.LinuxContainerResources) -> Resources:
    """Of UpdateContainerResources: what is 0 or missing stays as it is, below 0 is no limit any more."""
    told = resources_of(linux)
    return replace(
        told,
        cpu_millicores=0 if linux.cpu_quota < 0 else told.cpu_millicores,
        memory_bytes=0 if linux.memory_limit_in_bytes < 0 else told.memory_bytes,
    )


def security_of(config: cri.ContainerConfig) -> SecurityContext:
    linux = config.linux.security_context
    return SecurityContext(
        user=linux.run_as_user.value if linux.HasField("run_as_user") else None,
        user_name=linux.run_as_username,
        group=linux.run_as_group.value if linux.HasField("run_as_group") else None,
        supplemental_groups=tuple(linux.supplemental_groups),
        readonly_rootfs=linux.readonly_rootfs,
        masked_paths=tuple(linux.masked_paths),
        readonly_paths=tuple(linux.readonly_paths),
        node_ipc=linux.namespace_options.ipc == cri.NODE,
        demands=tuple(_demands(config)),
    )


def _demands(config: cri.ContainerConfig) -> Iterator[Demand]:
    """Of namespaces only another process's or the node's are one: what a pod shares is the adapter's affair."""
    linux, place = config.linux.security_context, "ContainerConfig.linux.security_context"
    options = linux.namespace_options
    if linux.privileged:
        yield Demand(f"{place}.privileged")
    for kind in ("add_capabilities", "add_ambient_capabilities"):
        yield from (Demand(f"{place}.capabilities.{kind}", name) for name in getattr(linux.capabilities, kind))
    if options.pid in {cri.NODE, cri.TARGET}:
        yield Demand(f"{place}.namespace_options.pid", cri.NamespaceMode.Name(options.pid))
    if options.HasField("userns_options") and options.userns_options.mode == cri.POD:
        yield Demand(f"{place}.namespace_options.userns_options", "POD")
    if linux.selinux_options.ByteSize():
        yield Demand(f"{place}.selinux_options")
    for name in ("seccomp", "apparmor"):
        if getattr(linux, name).profile_type == cri.SecurityProfile.Localhost:
            yield Demand(f"{place}.{name}", "Localhost")
    yield from (Demand("ContainerConfig.devices", device.host_path) for device in config.devices)
    yield from (Demand("ContainerConfig.CDI_devices", device.name) for device in config.CDI_devices)
    for mount in config.mounts:
        if mount.propagation == cri.PROPAGATION_BIDIRECTIONAL:
            yield Demand("ContainerConfig.mounts.propagation", f"{mount.container_path}: BIDIRECTIONAL")
        if mount.recursive_read_only:
            yield Demand("ContainerConfig.mounts.recursive_read_only", mount.container_path)
        if mount.uidMappings or mount.gidMappings:
            yield Demand("ContainerConfig.mounts.uidMappings", mount.container_path)


def _signal(number: cri.Signal) -> str:
    """Empty for the default, and for one that is not born yet."""
    name = cri.Signal.Name(number) if number in cri.Signal.values() else ""
    return name if number != cri.RUNTIME_DEFAULT else ""


def config_digest(config: cri.ContainerConfig) -> str:
    """SHA-256 of what is asked for, whatever the order of the variables and the file of the termination message.

    The kubelet gathers the variables of services from a Go map, so that they come in another order each time, and makes
    a file with a random name for the message.
    """
    same = cri.ContainerConfig()
    same.CopyFrom(config)
    message_path = same.annotations.get(_MESSAGE_PATH)
    for mount in same.mounts:
        if mount.container_path == message_path:
            mount.ClearField("host_path")
    variables = sorted(same.envs, key=lambda variable: variable.key)
    del same.envs[:]
    same.envs.extend(variables)
    return hashlib.sha256(same.SerializeToString(deterministic=True)).hexdigest()


def _need(field: str, value: str) -> None:
    if not value:
        raise InvalidArgument(f"{field} is empty")
    _no_nul(field, value)


def _no_nul(field: str, value: str) -> None:
    if "\0" in value:
        raise InvalidArgument(f"{field} has a NUL byte")


def _is_clean_path(path: str, *, absolute: bool) -> bool:
    pure = PurePosixPath(path)
    return "\0" not in path and pure.is_absolute() == absolute and ".." not in pure.parts and bool(pure.name)
