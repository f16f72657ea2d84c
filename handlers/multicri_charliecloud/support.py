"""What of CRI ch-run on a node can honour. What is `Answer.BY_POLICY` here is what the setting ``policy`` is about."""

from multicri_proxy.api.support import Answer, Fields, Support

_HONOURED = Support(Answer.HONOURED)
_NOT_OURS = Support(Answer.BY_POLICY, "containers have no rights on the node")
_SECURITY = "ContainerConfig.linux.security_context"
_RESOURCES = "ContainerConfig.linux.resources"

SYSCTLS = "PodSandboxConfig.linux.sysctls"
CAPABILITIES = f"{_SECURITY}.capabilities.add_capabilities"
GROUPS = f"{_SECURITY}.supplemental_groups"

FIELDS: Fields = {
    "PodSandboxConfig": _HONOURED,
    "PodSandboxConfig.port_mappings": Support(Answer.PARTLY, "with --enable-pod-network, by CNI's portmap"),
    "PodSandboxConfig.linux.security_context": Support(Answer.IGNORED, "what each container says counts"),
    "PodSandboxConfig.linux.security_context.namespace_options.network": Support(
        Answer.PARTLY, "a pod has its own with --enable-pod-network, by root's daemon"
    ),
    SYSCTLS: Support(
        Answer.BY_POLICY, "root's daemon honours IPC's, and net.* of pods that have a network namespace of their own"
    ),
    "PodSandboxConfig.linux.overhead": Support(Answer.IGNORED, "the kubelet has it in the pod's control group"),
    "PodSandboxConfig.linux.resources": Support(Answer.IGNORED, "the kubelet has it in the pod's control group"),
    "PodSandboxConfig.windows": Support(Answer.IGNORED),
    "ContainerConfig": _HONOURED,
    "ContainerConfig.mounts": Support(Answer.PARTLY, "not on /, and nothing below /proc and /sys: refused"),
    "ContainerConfig.mounts.readonly": Support(Answer.PARTLY, "of the mount itself, not of others below it"),
    "ContainerConfig.mounts.image": Support(Answer.REFUSED, "an image is no volume yet"),
    "ContainerConfig.mounts.image_sub_path": Support(Answer.REFUSED, "as image"),
    "ContainerConfig.mounts.selinux_relabel": Support(Answer.IGNORED, "containers have no labels of their own"),
    "ContainerConfig.mounts.propagation": Support(
        Answer.BY_POLICY, "what is mounted on the node later is not seen, which is told of BIDIRECTIONAL alone"
    ),
    "ContainerConfig.mounts.recursive_read_only": Support(Answer.BY_POLICY, "see readonly"),
    "ContainerConfig.mounts.uidMappings": Support(Answer.BY_POLICY, "all processes are one user of the node"),
    "ContainerConfig.mounts.gidMappings": Support(Answer.BY_POLICY, "all processes are one user of the node"),
    "ContainerConfig.devices": Support(Answer.BY_POLICY, "/dev has what every program expects, and nothing else"),
    "ContainerConfig.CDI_devices": Support(Answer.BY_POLICY, "as devices"),
    _RESOURCES: Support(Answer.PARTLY, "where the node delegates a control group"),
    f"{_RESOURCES}.cpuset_cpus": Support(Answer.IGNORED),
    f"{_RESOURCES}.cpuset_mems": Support(Answer.IGNORED),
    f"{_RESOURCES}.hugepage_limits": Support(Answer.IGNORED),
    f"{_RESOURCES}.unified": Support(Answer.IGNORED),
    f"{_RESOURCES}.memory_swap_limit_in_bytes": Support(Answer.IGNORED, "a container has no swap"),
    CAPABILITIES: Support(
        Answer.BY_POLICY, "but NET_BIND_SERVICE, which is honoured in a network namespace of the pod's own"
    ),
    f"{_SECURITY}.capabilities.add_ambient_capabilities": _NOT_OURS,
    f"{_SECURITY}.capabilities.drop_capabilities": Support(Answer.HONOURED, "it has none over the node"),
    f"{_SECURITY}.privileged": _NOT_OURS,
    f"{_SECURITY}.namespace_options.network": Support(Answer.HONOURED, "as the pod's"),
    f"{_SECURITY}.namespace_options.pid": Support(
        Answer.BY_POLICY, "of NODE and TARGET; each container has one of its own, also where the pod is to share one"
    ),
    f"{_SECURITY}.namespace_options.ipc": Support(
        Answer.PARTLY, "NODE is the node's; else each container has one of its own, and shares none with its pod"
    ),
    f"{_SECURITY}.namespace_options.target_id": Support(Answer.BY_POLICY, "as pid"),
    f"{_SECURITY}.namespace_options.userns_options": Support(
        Answer.BY_POLICY, "of POD; every container is in a user namespace, with one id of the node"
    ),
    f"{_SECURITY}.selinux_options": _NOT_OURS,
    f"{_SECURITY}.run_as_user": Support(
        Answer.PARTLY, "in the container and its volumes; its processes are charliecloud.user"
    ),
    f"{_SECURITY}.run_as_username": Support(Answer.PARTLY, "as run_as_user"),
    f"{_SECURITY}.run_as_group": Support(Answer.PARTLY, "as run_as_user"),
    GROUPS: Support(Answer.BY_POLICY, "root's daemon honours all but 0; inside they show as nogroup"),
    f"{_SECURITY}.supplemental_groups_policy": Support(Answer.IGNORED, "the image's /etc/group gives no groups"),
    f"{_SECURITY}.readonly_rootfs": Support(Answer.PARTLY, "but for /tmp"),
    f"{_SECURITY}.no_new_privs": Support(Answer.HONOURED, "always"),
    f"{_SECURITY}.apparmor": Support(Answer.BY_POLICY, "of Localhost; there is no default profile"),
    f"{_SECURITY}.apparmor_profile": Support(Answer.IGNORED, "apparmor has taken its place"),
    f"{_SECURITY}.seccomp": Support(Answer.BY_POLICY, "of Localhost; there is no default profile"),
    f"{_SECURITY}.seccomp_profile_path": Support(Answer.IGNORED, "seccomp has taken its place"),
    "ContainerConfig.stop_signal": Support(Answer.HONOURED, "else the image's, else SIGTERM"),
    "ContainerConfig.windows": Support(Answer.IGNORED),
}
