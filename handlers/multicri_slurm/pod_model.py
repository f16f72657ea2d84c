"""Whether each container of a pod is a job, or the pod an allocation and its containers steps in it. Pure."""

from typing import get_args

from multicri_proxy.api.adapter import Pod
from multicri_proxy.api.errors import InvalidArgument
from multicri_slurm.annotations import PREFIX, Annotations
from multicri_slurm.settings import PodModel, Settings
from multicri_slurm.variables import Variables

POD_MODEL_ANNOTATION = f"{PREFIX}pod-model"

ONE_NODE: tuple[str, ...] = ("--nodes=1", "--ntasks=1")
"""sbatch's options for every allocation: its containers share a node, and --cpus-per-task is what all of them have."""

_OF_A_JOB = {
    "JOB_QUEUE": "partition",
    "JOB_GPU": "gres",
    "JOB_NUM_NODES": "",
    "JOB_NUM_CORES_NODE": "cpus-per-task",
    "JOB_NUM_CORES": "",
    "JOB_NUM_TASKS_NODE": "",
    "JOB_CUSTOM_CONFIG": "...",
    "MPI_VERSION": "",
    "MPI_FLAGS": "",
}
"""Variables that ask for something of a job, and the annotation that asks for it for a pod, if there is one."""
_OF_MANY = ("mpi", "nodes", "ntasks", "ntasks_per_node", "gpus_per_task")


def pod_model_of(pod: Pod, settings: Settings) -> PodModel:
    """The pod's own, else its profile's. Raises InvalidArgument for an annotation that is none."""
    value = pod.annotations.get(POD_MODEL_ANNOTATION, settings.pod_model)
    for model in get_args(PodModel):
        if value == model:
            return model  # type: ignore[no-any-return]
    raise InvalidArgument(
        f"annotation {POD_MODEL_ANNOTATION}={value[:80]!r}: must be one of {', '.join(get_args(PodModel))}"
    )


def check_step(variables: Variables, annotations: Annotations) -> None:
    """Raises InvalidArgument for what a container that is a step cannot have."""
    for name, annotation in _OF_A_JOB.items():
        if getattr(variables, name) is not None:
            instead = f"say it for the pod, with the annotation {PREFIX}{annotation}" if annotation else "leave it out"
            raise InvalidArgument(
                f"{name}: with the pod model allocation-per-pod a container is a step, and asks Slurm for nothing of "
                f"its own: {instead}, or choose job-per-container"
            )
    for field in _OF_MANY:
        if getattr(annotations, field) not in {None, "1"}:
            raise InvalidArgument(
                f"annotation {PREFIX}{field.replace('_', '-')}: with the pod model allocation-per-pod a pod has one "
                "node, and each of its containers one task: leave it out, or choose job-per-container"
            )
