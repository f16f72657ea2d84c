"""sbatch's options as fields of a job that slurmrestd takes, which reads no ``#SBATCH`` lines. Pure.

Options that are not here have no field that means the same, and are refused by name.
Source: sbatch(1), of which OUTPUT ENVIRONMENT VARIABLES; the schema job_desc_msg of v0.0.40 to v0.0.45.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from multicri_proxy.api.errors import InvalidArgument

Fields = Mapping[str, object]
_HEADER = "#SBATCH --"
_UNITS = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0 * 1024}
_DELAY = re.compile(r"now(?:\+([0-9]{1,9})(second|minute|hour|day|week)?s?)?", re.ASCII)
_SECONDS = {None: 1, "second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}


@dataclass(frozen=True, slots=True)
class _Field:
    """name: of the field. read: makes its value; raises ValueError, which says what it must be."""

    name: str
    read: Callable[[str, float], object]


def fields_of_script(text: str, now_s: float) -> Fields:
    """The fields that a job script's header asks for. now_s: Unix time.

    Raises InvalidArgument naming an option that has none, or a value that cannot be said.
    """
    return fields_of_options(_options_of(text), now_s)


def environment_of_script(text: str) -> list[str]:
    """``NAME=value`` for what sbatch would tell a job of its options, for srun in it."""
    told = {
        variable: value
        for name, _, value in (option.removeprefix("--").partition("=") for option in _options_of(text))
        if (variable := _TOLD.get(name)) is not None
    }
    return [f"{variable}={value}" for variable, value in told.items()]


def _options_of(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.split("\n") if line.startswith(_HEADER)]


def fields_of_options(options: Iterable[str], now_s: float) -> Fields:
    """options: ``--name=value`` or ``--name``. Raises InvalidArgument as `fields_of_script` does."""
    fields: dict[str, object] = {}
    for option in options:
        name, _, value = option.removeprefix("--").partition("=")
        if (field := _FIELDS.get(name)) is None:
            raise InvalidArgument(f"--{name}: cannot be had over Slurm's REST interface; leave it out")
        try:
            told = field.read(value, now_s)
        except ValueError as error:
            raise InvalidArgument(f"{option}: over Slurm's REST interface it must be {error}") from error
        if field.name == "tres_per_node" and field.name in fields:  # --gres and --gpus-per-node are one list
            told = f"{fields[field.name]},{told}"
        fields[field.name] = told
    return fields


def minutes_of(value: str) -> int:
    """sbatch's time: minutes, [hours:]minutes:seconds, days-hours[:minutes[:seconds]]; seconds are rounded up."""
    days, dash, rest = value.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = (0, *parts)[-3:]
    total_s = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    return -(-total_s // 60)


def megabytes_of(value: str) -> int:
    """sbatch's memory: MiB, or with K, M, G or T behind; rounded up."""
    text = value.upper().removesuffix("B")
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS and text[-1:] else (text, "")
    return int(-(-float(number) * _UNITS[unit] // 1))


def _text(value: str, _: float) -> object:
    return value


def _number(value: str, _: float) -> object:
    return int(value)


def _yes(_value: str, _: float) -> object:
    return True


def _no(_value: str, _: float) -> object:
    return False


def _set(number: int) -> object:
    return {"set": True, "infinite": False, "number": number}


def _time(value: str, _: float) -> object:
    if value.upper() in {"UNLIMITED", "INFINITE"}:
        return {"set": False, "infinite": True, "number": 0}
    return _set(minutes_of(value))


def _memory(value: str, _: float) -> object:
    return _set(megabytes_of(value))


def _disk(value: str, _: float) -> object:
    return megabytes_of(value)


def _begin(value: str, now_s: float) -> object:
    return _set(_unix_time(value, now_s))


def _unix_time(value: str, now_s: float) -> int:
    match = _DELAY.fullmatch(value)
    if match is None:
        raise ValueError("now+count[seconds|minutes|hours|days|weeks]: the cluster's time zone is not known")
    return int(now_s) + int(match[1] or 0) * _SECONDS[match[2]]


def _hosts(value: str, _: float) -> object:
    return [value]


def _gres(value: str, _: float) -> object:
    return ",".join(f"gres/{one.removeprefix('gres/').removeprefix('gres:')}" for one in value.split(","))


def _gpus(value: str, _: float) -> object:
    return ",".join(f"gres/gpu:{one}" for one in value.split(","))


def _exclusive(value: str, _: float) -> object:
    if value in {"", "exclusive"}:
        return ["none"]
    if value in {"user", "mcs", "topo"}:
        return [value]
    raise ValueError("user, mcs, topo or without a value")


def _oversubscribe(_value: str, _: float) -> object:
    return ["oversubscribe"]


_FIELDS: Mapping[str, _Field] = {
    "account": _Field("account", _text),
    "begin": _Field("begin_time", _begin),
    "chdir": _Field("current_working_directory", _text),
    "comment": _Field("comment", _text),
    "constraint": _Field("constraints", _text),
    "contiguous": _Field("contiguous", _yes),
    "cpus-per-task": _Field("cpus_per_task", _number),
    "deadline": _Field("deadline", _unix_time),
    "dependency": _Field("dependency", _text),
    "distribution": _Field("distribution", _text),
    "exclude": _Field("excluded_nodes", _hosts),
    "exclusive": _Field("shared", _exclusive),
    "gpus": _Field("tres_per_job", _gpus),
    "gpus-per-node": _Field("tres_per_node", _gpus),
    "gpus-per-task": _Field("tres_per_task", _gpus),
    "gres": _Field("tres_per_node", _gres),
    "job-name": _Field("name", _text),
    "licenses": _Field("licenses", _text),
    "mcs-label": _Field("mcs_label", _text),
    "mem": _Field("memory_per_node", _memory),
    "mem-per-cpu": _Field("memory_per_cpu", _memory),
    "mincpus": _Field("minimum_cpus_per_node", _number),
    "nice": _Field("nice", _number),
    "no-requeue": _Field("requeue", _no),
    "nodelist": _Field("required_nodes", _hosts),
    "nodes": _Field("nodes", _text),
    "ntasks": _Field("tasks", _number),
    "ntasks-per-core": _Field("tasks_per_core", _number),
    "ntasks-per-node": _Field("tasks_per_node", _number),
    "ntasks-per-socket": _Field("tasks_per_socket", _number),
    "output": _Field("standard_output", _text),
    "overcommit": _Field("overcommit", _yes),
    "oversubscribe": _Field("shared", _oversubscribe),
    "partition": _Field("partition", _text),
    "prefer": _Field("prefer", _text),
    "qos": _Field("qos", _text),
    "reservation": _Field("reservation", _text),
    "sockets-per-node": _Field("sockets_per_node", _number),
    "threads-per-core": _Field("threads_per_core", _number),
    "time": _Field("time_limit", _time),
    "time-min": _Field("time_minimum", _time),
    "tmp": _Field("temporary_disk_per_node", _disk),
    "wckey": _Field("wckey", _text),
}
_TOLD: Mapping[str, str] = {
    "chdir": "SLURM_SUBMIT_DIR",
    "cpus-per-task": "SLURM_CPUS_PER_TASK",
    "gpus": "SLURM_GPUS",
    "gpus-per-node": "SLURM_GPUS_PER_NODE",
    "gpus-per-task": "SLURM_GPUS_PER_TASK",
    "ntasks-per-core": "SLURM_NTASKS_PER_CORE",
    "ntasks-per-node": "SLURM_NTASKS_PER_NODE",
    "ntasks-per-socket": "SLURM_NTASKS_PER_SOCKET",
    "threads-per-core": "SLURM_THREADS_PER_CORE",
}
"""What slurmd does not tell a job by itself."""
