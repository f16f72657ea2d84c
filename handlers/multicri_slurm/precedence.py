"""Several places ask for sbatch options: which one is heard. Pure.

A container's options come from its variables, from its pod's annotations, from its resources and from an admin's
defaults. Each subject is settled by the first of them that says anything about it.

Source: sbatch(1): --mem, --mem-per-cpu and --mem-per-gpu exclude each other, so do --cpus-per-task and --cpus-per-gpu.
"""

from collections.abc import Mapping, Sequence

_GPUS = "gpus"
_SUBJECTS = {
    "mem": "memory",
    "mem-per-cpu": "memory",
    "mem-per-gpu": "memory",
    "cpus-per-task": "cpus",
    "cpus-per-gpu": "cpus",
    "gpus": _GPUS,
    "gpus-per-node": _GPUS,
    "gpus-per-socket": _GPUS,
    "gpus-per-task": _GPUS,
}


def values_of(options: Sequence[str]) -> Mapping[str, str]:
    """``--name=value`` by name, without dashes; of several with one name the last, as sbatch has it."""
    split = (option.removeprefix("--").partition("=") for option in options)
    return {name: value for name, _, value in split}


def settled(*layers: Sequence[str]) -> tuple[str, ...]:
    """One list of options. layers: options as ``--name=value`` or ``--name``, those that are heard first come first."""
    options: list[str] = []
    taken: set[str] = set()
    for layer in layers:
        heard = [
            f"--{name}={value}" if value else f"--{name}"
            for name, value in values_of(layer).items()
            if taken.isdisjoint(_subjects(name, value))
        ]
        for name, value in values_of(layer).items():
            taken |= _subjects(name, value)
        options += heard
    return tuple(options)


def asks_for_gpus(options: Sequence[str]) -> bool:
    return any(_GPUS in _subjects(name, value) for name, value in values_of(options).items())


def _subjects(name: str, value: str) -> set[str]:
    """JOB_GPU is a --gres, and so says how many GPUs; a --gres of anything else does not."""
    if name == "gres":
        kinds = (part.partition(":")[0].removeprefix("gres/") for part in value.split(","))
        return {name, _GPUS} if "gpu" in kinds else {name}
    return {_SUBJECTS.get(name, name)}
