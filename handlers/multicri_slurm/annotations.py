"""A pod's annotations that are meant for us: ``slurm.multicri.io/<option>``, for all of its containers. Pure.

What a container's variables say wins over them.
"""

import difflib
import re
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from multicri_proxy.api.errors import InvalidArgument
from multicri_slurm.job_options import ALLOWED, REFUSED, Form, Option

PREFIX = "slurm.multicri.io/"
READ_ELSEWHERE = frozenset({"cluster", "pod-model"})
"""The profile of the cluster; what a pod is there."""
FAMILIES_READ_ELSEWHERE = ("volume-name.",)
"""The name of a volume in the cluster."""
LONGEST_VALUE_SHOWN = 80
MOST_EXPLAINED = 5
"""To find what may have been meant takes a while, and a pod can have thousands."""
_YES = frozenset({"", "true", "yes", "1"})
_NOT_FOR_SBATCH = {
    "mpi": Option(Form(r"[a-z][a-z0-9_]{0,31}", "a type that srun --mpi=list names, like pmix, or mpirun")),
    "way-back": Option(Form(r"true|false", "true or false")),
}


class Annotations(BaseModel):
    """What a pod asks of Slurm, checked: sbatch's options by their long names, with ``_`` for ``-``.

    mpi: how the ranks of an MPI job are started: a type that ``srun --mpi=list`` names, or ``mpirun``.
    way_back: whether the job is to reach the node's network.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    account: str | None = None
    begin: str | None = None
    constraint: str | None = None
    cpus_per_task: str | None = None
    deadline: str | None = None
    distribution: str | None = None
    exclude: str | None = None
    exclusive: str | None = None
    gpus: str | None = None
    gpus_per_node: str | None = None
    gpus_per_task: str | None = None
    gres: str | None = None
    hint: str | None = None
    licenses: str | None = None
    mem: str | None = None
    mem_per_cpu: str | None = None
    mem_per_gpu: str | None = None
    mpi: str | None = None
    nice: str | None = None
    nodelist: str | None = None
    nodes: str | None = None
    ntasks: str | None = None
    ntasks_per_node: str | None = None
    partition: str | None = None
    qos: str | None = None
    reservation: str | None = None
    threads_per_core: str | None = None
    time: str | None = None
    tmp: str | None = None
    way_back: str | None = None
    wckey: str | None = None

    @field_validator("*")
    @classmethod
    def _as_sbatch_takes_it(cls, value: str, info: ValidationInfo) -> str:
        name = _dashed(info.field_name or "")
        option = _NOT_FOR_SBATCH.get(name) or ALLOWED[name]
        if option.value_optional and value in _YES:
            return ""
        if not option.takes(value):
            raise ValueError(f"must be {option.form.wanted}{', or true' if option.value_optional else ''}")
        return value

    def options(self) -> tuple[str, ...]:
        """What is set, as sbatch options."""
        given = ((_dashed(name), value) for name, value in self if value is not None)
        return tuple(
            f"--{name}={value}" if value else f"--{name}" for name, value in given if name not in _NOT_FOR_SBATCH
        )


def read_annotations(annotations: Mapping[str, str]) -> Annotations:
    """Raises InvalidArgument naming each annotation below our prefix that is wrong or that there is none of."""
    ours = {key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX)}
    given = {name: value for name, value in ours.items() if not _is_read_elsewhere(name)}
    unknown = [name for name in given if name not in _NAMES]
    reasons = [_why_not(name) for name in unknown[:MOST_EXPLAINED]]
    if len(unknown) > MOST_EXPLAINED:
        reasons.append(f"{PREFIX}...: {len(unknown) - MOST_EXPLAINED} more that there are none of")
    known = {name.replace("-", "_"): value for name, value in given.items() if name in _NAMES}
    try:
        read = Annotations.model_validate(known)
    except ValidationError as error:
        for wrong in error.errors():
            name = _dashed(str(wrong["loc"][0]))
            reasons.append(f"={given[name][:LONGEST_VALUE_SHOWN]!r}: ".join((PREFIX + name, _plain(wrong["msg"]))))
    if reasons:
        raise InvalidArgument("; ".join(f"annotation {reason}" for reason in reasons))
    return read


def _why_not(name: str) -> str:
    """Why there is no such annotation."""
    shown = f"{PREFIX}{name[:LONGEST_VALUE_SHOWN]}"
    if name in REFUSED:
        return f"{shown}: is not allowed: {REFUSED[name]}"
    if name in ALLOWED:
        return f"{shown}: there is none; a container can say it in JOB_CUSTOM_CONFIG, as --{name}"
    wanted = (
        re.sub(r"(?<=[a-z])[A-Z]", lambda found: f"-{found[0]}", name[:LONGEST_VALUE_SHOWN]).replace("_", "-").lower()
    )
    nearest = difflib.get_close_matches(wanted, _NAMES, n=1)
    hint = f"is {PREFIX}{nearest[0]} meant?" if nearest else f"there are {', '.join(_NAMES)}"
    return f"{shown}: there is none; {hint}"


def _is_read_elsewhere(name: str) -> bool:
    return name in READ_ELSEWHERE or name.startswith(FAMILIES_READ_ELSEWHERE)


def _dashed(field: str) -> str:
    return field.replace("_", "-")


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


_NAMES = tuple(_dashed(field) for field in Annotations.model_fields)
