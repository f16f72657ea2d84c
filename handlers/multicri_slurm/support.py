"""What of CRI a Slurm pod gets. Its containers run elsewhere, as processes of the cluster's account."""

from multicri_proxy.api.support import Answer, Fields, Support

_HONOURED = Support(Answer.HONOURED)
_KERNEL = Support(Answer.IGNORED, "the container has what the cluster's account has, and never more")
_ELSEWHERE = Support(Answer.IGNORED, "it is about the node, and the container runs elsewhere")
_ACCOUNT = Support(Answer.IGNORED, "processes are the cluster's account")
_SECURITY = "ContainerConfig.linux.security_context"


FIELDS: Fields = {
    "PodSandboxConfig": _HONOURED,
    "PodSandboxConfig.hostname": Support(Answer.IGNORED, "it is the cluster's node's"),
    "PodSandboxConfig.dns_config": Support(Answer.IGNORED, "names are resolved as in the cluster"),
    "PodSandboxConfig.port_mappings": Support(
        Answer.PARTLY, "TCP alone, and with --enable-pod-network: the pod's ports lead to the job"
    ),
    "PodSandboxConfig.linux": _ELSEWHERE,
    "PodSandboxConfig.linux.security_context": _KERNEL,
    "PodSandboxConfig.linux.security_context.namespace_options.network": Support(
        Answer.PARTLY, "with --enable-pod-network: the pod's namespace has its ports, which lead to the job"
    ),
    "PodSandboxConfig.linux.resources": Support(Answer.PARTLY, "CPU and memory of a pod that is one allocation"),
    "ContainerConfig": _HONOURED,
    "ContainerConfig.mounts": Support(Answer.PARTLY, "volumes are copied, or are mounted in the cluster, too"),
    "ContainerConfig.mounts.image": Support(Answer.REFUSED, "no runtime in clusters mounts an image as a volume"),
    "ContainerConfig.mounts.image_sub_path": Support(Answer.REFUSED, "as image"),
    "ContainerConfig.mounts.selinux_relabel": _ELSEWHERE,
    "ContainerConfig.mounts.propagation": _ELSEWHERE,
    "ContainerConfig.mounts.recursive_read_only": _ELSEWHERE,
    "ContainerConfig.mounts.uidMappings": _ELSEWHERE,
    "ContainerConfig.mounts.gidMappings": _ELSEWHERE,
    "ContainerConfig.devices": Support(Answer.REFUSED, "a block volume, or a device plug-in's, is on this node"),
    "ContainerConfig.CDI_devices": Support(Answer.IGNORED, "ask Slurm for devices, by annotation or JOB_CUSTOM_CONFIG"),
    "ContainerConfig.linux": _ELSEWHERE,
    "ContainerConfig.linux.resources.cpu_quota": Support(Answer.PARTLY, "--cpus-per-task, unless the pod says it"),
    "ContainerConfig.linux.resources.cpu_period": Support(Answer.PARTLY, "as cpu_quota"),
    "ContainerConfig.linux.resources.cpu_shares": Support(Answer.PARTLY, "as cpu_quota, where there is no limit"),
    "ContainerConfig.linux.resources.memory_limit_in_bytes": Support(Answer.PARTLY, "--mem, unless the pod says it"),
    _SECURITY: _KERNEL,
    f"{_SECURITY}.run_as_user": _ACCOUNT,
    f"{_SECURITY}.run_as_username": _ACCOUNT,
    f"{_SECURITY}.run_as_group": _ACCOUNT,
    "ContainerConfig.stop_signal": Support(Answer.IGNORED, "it is SIGTERM"),
    "ContainerConfig.windows": _ELSEWHERE,
    "PodSandboxConfig.windows": _ELSEWHERE,
}
"""Of demands, those that are refused are refused when the container is created."""
