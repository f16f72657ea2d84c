"""The variables of a pod that are meant for us: who to be in the cluster, and what the job asks for. Pure.

They are multi-cri's. None of them reaches the container: whatever begins with ``CLUSTER_``, and the names of
`JOB_VARIABLES`. Every other name does, also one like JOB_COMPLETION_INDEX, which is Kubernetes' own.

Source: multi-cri's README, "Slurm adapter".
"""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from multicri_proxy.api.errors import InvalidArgument
from multicri_slurm.fields import Host, Port, UserName, matching
from multicri_slurm.keys import LONGEST_KEY
from multicri_slurm.prerun import LONGEST_PRERUN

CLUSTER_PREFIX = "CLUSTER_"
JOB_VARIABLES = frozenset(
    {
        "JOB_QUEUE",
        "JOB_GPU",
        "JOB_NUM_NODES",
        "JOB_NUM_CORES_NODE",
        "JOB_NUM_CORES",
        "JOB_NUM_TASKS_NODE",
        "JOB_CUSTOM_CONFIG",
        "JOB_SHELL",
        "MPI_VERSION",
        "MPI_FLAGS",
    }
)
SECRET_VARIABLES = frozenset({"CLUSTER_PASSWORD", "CLUSTER_KEYVALUE", "CLUSTER_CONFIG"})
LONGEST_OPTIONS = 4096
"""They are read on the event loop, word by word."""
LONGEST_VALUE_SHOWN = 80


def _private_key(value: str) -> str:
    """By its form alone: `keys.py` has it checked."""
    if not re.match(r"\s*-----BEGIN [A-Z ]*PRIVATE KEY-----\s", value):
        raise ValueError("is not a private key in OpenSSH or PEM format")
    if len(value) > LONGEST_KEY:
        raise ValueError(
            f"is longer than {LONGEST_KEY} characters: must be Ed25519, ECDSA, or RSA of at most 4096 bits"
        )
    return value


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL byte")
    if len(value.encode()) > LONGEST_PRERUN:
        raise ValueError(f"must not be longer than {LONGEST_PRERUN} bytes")
    return value


def _options(value: str) -> str:
    if len(value) > LONGEST_OPTIONS:
        raise ValueError(f"must not be longer than {LONGEST_OPTIONS} characters")
    return _text(value)


def _truth(value: str) -> bool:
    if value not in {"true", "false"}:
        raise ValueError("must be true or false")
    return value == "true"


_Count = Annotated[str, matching(r"[1-9][0-9]{0,6}", "a whole number from 1 to 9999999")]


class Variables(BaseModel):
    """What the pod asks of the cluster, checked. An empty value is an unset one."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    CLUSTER_USERNAME: UserName | None = None
    CLUSTER_HOST: Host | None = None
    CLUSTER_PORT: Port | None = None
    CLUSTER_PASSWORD: Annotated[str, AfterValidator(_text)] | None = Field(default=None, repr=False)
    CLUSTER_KEYVALUE: Annotated[str, AfterValidator(_private_key)] | None = Field(default=None, repr=False)
    CLUSTER_CONFIG: Annotated[str, AfterValidator(_text)] | None = Field(default=None, repr=False)
    JOB_QUEUE: (
        Annotated[str, matching(r"[A-Za-z0-9_][A-Za-z0-9_.,-]{0,254}", "a partition, or several parted by commas")]
        | None
    ) = None
    JOB_GPU: (
        Annotated[
            str,
            matching(
                r"gpu(:(?![0-9]+(:|\Z))[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?(:[1-9][0-9]{0,4})?", "gpu[[:type]:count]"
            ),
        ]
        | None
    ) = None
    JOB_NUM_NODES: (
        Annotated[str, matching(r"[1-9][0-9]{0,6}(-[1-9][0-9]{0,6})?", "a whole number, or least-most")] | None
    ) = None
    JOB_NUM_CORES_NODE: _Count | None = None
    JOB_NUM_CORES: _Count | None = None
    JOB_NUM_TASKS_NODE: _Count | None = None
    JOB_CUSTOM_CONFIG: Annotated[str, AfterValidator(_options)] | None = None
    JOB_SHELL: Annotated[bool, BeforeValidator(_truth)] | None = None
    MPI_VERSION: Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", "a version like 5.0.1")] | None = None
    MPI_FLAGS: Annotated[str, AfterValidator(_options)] | None = None

    @model_validator(mode="after")
    def _one_credential(self) -> "Variables":
        if self.CLUSTER_PASSWORD is not None and self.CLUSTER_KEYVALUE is not None:
            raise ValueError("exactly one of CLUSTER_PASSWORD and CLUSTER_KEYVALUE must be set")
        return self

    def job_options(self) -> tuple[str, ...]:
        """The JOB_* variables as sbatch options; JOB_CUSTOM_CONFIG is not among them."""
        table = (
            ("partition", self.JOB_QUEUE),
            ("gres", self.JOB_GPU),
            ("nodes", self.JOB_NUM_NODES),
            ("ntasks", self.JOB_NUM_CORES),
            ("cpus-per-task", self.JOB_NUM_CORES_NODE),
            ("ntasks-per-node", self.JOB_NUM_TASKS_NODE),
        )
        return tuple(f"--{option}={value}" for option, value in table if value is not None)


def is_reserved(name: str) -> bool:
    return name.startswith(CLUSTER_PREFIX) or name in JOB_VARIABLES


def split(env: Iterable[tuple[str, bytes]]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """(what is ours, what is the container's); of two with one name the later one wins."""
    ours: dict[str, bytes] = {}
    containers: dict[str, bytes] = {}
    for name, value in env:
        target = ours if is_reserved(name) else containers
        target.pop(name, None)
        target[name] = value
    return ours, containers


def read_variables(reserved: dict[str, bytes]) -> Variables:
    """Raises InvalidArgument naming each variable that is wrong, and the form that it wants."""
    texts: dict[str, str] = {}
    for name, value in reserved.items():
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise InvalidArgument(f"{name}: must be UTF-8") from None
        if text and name in Variables.model_fields:
            texts[name] = text
    try:
        return Variables.model_validate(texts)
    except ValidationError as error:
        reasons = [_reason(str(e["loc"][0]) if e["loc"] else "", e["msg"], texts) for e in error.errors()]
        raise InvalidArgument("; ".join(reasons)) from None


def _reason(name: str, message: str, texts: dict[str, str]) -> str:
    message = message.removeprefix("Value error, ")
    if not name:
        return message
    if name in SECRET_VARIABLES:
        return f"{name}: {message}"
    value = texts.get(name, "")
    shown = value if len(value) <= LONGEST_VALUE_SHOWN else f"{value[:LONGEST_VALUE_SHOWN]}…"
    return f"{name}={shown!r}: {message[0].lower()}{message[1:]}"
