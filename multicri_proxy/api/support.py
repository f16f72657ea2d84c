"""What an adapter makes of each thing that CRI lets a pod ask for: said once, for what refuses and for the docs."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Answer(Enum):
    """BY_POLICY: an admin's setting decides whether it is refused, or ignored with a warning."""

    HONOURED = "honoured"
    PARTLY = "partly"
    BY_POLICY = "refused, or ignored by policy"
    REFUSED = "refused"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Support:
    """note: to what extent, or why not; empty if the answer says it all."""

    answer: Answer
    note: str = ""


Fields = Mapping[str, Support]
"""By CRI's message and the path of a field in it, as ``ContainerConfig.linux.security_context.privileged``. One that is
not here is as the message that it is in.

A plug-in: the object that an entry point of the group ``multicri_proxy.support`` names, called as its adapter.
"""


def of_field(fields: Fields, name: str) -> Support:
    """Its own, or that of the nearest message that it is in. Raises KeyError if there is none of the whole."""
    while name not in fields and "." in name:
        name = name.rpartition(".")[0]
    return fields[name]
