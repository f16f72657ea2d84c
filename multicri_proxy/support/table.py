"""CRI's fields and what adapters make of them, as Markdown. Pure.

A row is a field, or a message none of whose fields is treated otherwise than the others.
"""

from collections.abc import Iterator, Mapping

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from multicri_proxy.api.support import Answer, Fields, Support, of_field
from multicri_proxy.cri.v1 import runtime_pb2 as cri

MESSAGES = ("PodSandboxConfig", "ContainerConfig")

_HEAD = """\
# What of CRI is honoured

What a pod can ask for in RunPodSandbox and CreateContainer, by CRI's names, and what each adapter makes of it. This
file is made by `python -m multicri_proxy.support >deploy/cri.md` from what the adapters themselves refuse by; tests see
to that, ask for each field, and see whether it is refused. Ordinary pods are not concerned: what they ask for goes to
their runtime unchanged.

"""

_MEANINGS = {
    Answer.HONOURED: "as CRI has it",
    Answer.PARTLY: "to the extent that is said",
    Answer.REFUSED: "CreateContainer fails with InvalidArgument, which names the field",
    Answer.BY_POLICY: "refused, unless the adapter's `policy` is `permissive`: then ignored, and the log says so",
    Answer.IGNORED: "the container runs without it",
}


def document(adapters: Mapping[str, Fields]) -> str:
    """adapters: by their names in ``--adapter-name``."""
    names = sorted(adapters)
    lines = ["| | |", "|---|---|", *(f"| {one.value} | {meaning} |" for one, meaning in _MEANINGS.items())]
    for message in MESSAGES:
        lines += ["", f"## {message}", "", f"| field | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for field in _rows(cri.DESCRIPTOR.message_types_by_name[message], message, list(adapters.values())):
            cells = [_cell(of_field(adapters[name], field)) for name in names]
            lines.append(f"| `{field.removeprefix(f'{message}.')}` | {' | '.join(cells)} |")
    return _HEAD + "\n".join(lines) + "\n"


def fields_of(message: Descriptor, path: str) -> Iterator[str]:
    """The path of every field in a message, and of those in its messages."""
    for field in message.fields:
        here = f"{path}.{field.name}"
        yield here
        if (inner := _inner(field)) is not None:
            yield from fields_of(inner, here)


def _rows(message: Descriptor, path: str, adapters: list[Fields]) -> Iterator[str]:
    for field in message.fields:
        here = f"{path}.{field.name}"
        inner = _inner(field)
        if inner is not None and any(name in fields for name in fields_of(inner, here) for fields in adapters):
            yield from _rows(inner, here, adapters)
        else:
            yield here


def _inner(field: FieldDescriptor) -> Descriptor | None:
    """A message of CRI's own: neither a map nor a number that may be missing."""
    inner = field.message_type
    if inner is None or inner.GetOptions().map_entry or inner.full_name.endswith(("Int64Value", "KeyValue")):
        return None
    return inner


def _cell(support: Support) -> str:
    return f"{support.answer.value}: {support.note}" if support.note else support.answer.value
