"""A container's CPU and memory, as Kubernetes has them, in sbatch's words. Pure.

They are one container's: what a job of several tasks or nodes needs for each of them, only its author knows. So they
fill in where the job is one task on one node, and nowhere else.

Source: sbatch(1): --cpus-per-task is for each task, --mem for each node.
"""

from collections.abc import Sequence

from multicri_proxy.api.adapter import Resources
from multicri_slurm.precedence import values_of

MIB = 1024 * 1024
_MANY = ("nodes", "ntasks", "ntasks-per-node")


def resource_options(resources: Resources, chosen: Sequence[str]) -> tuple[str, ...]:
    """chosen: the options that the pod names itself; what they settle is not left out here, but by `precedence`."""
    chosen_values = values_of(chosen)
    if any(chosen_values.get(name, "1") not in {"1", "1-1"} for name in _MANY):
        return ()
    options: list[str] = []
    if cpu_millicores := resources.cpu_millicores or resources.cpu_request_millicores:
        options.append(f"--cpus-per-task={_rounded_up(cpu_millicores, 1000)}")
    if resources.memory_bytes:
        options.append(f"--mem={_rounded_up(resources.memory_bytes, MIB)}M")
    return tuple(options)


def _rounded_up(amount: int, unit: int) -> int:
    return -(-amount // unit)
