"""Which sandboxes and containers a list call wants. All parts of a filter must hold."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.messages import CONTAINER_STATES, SANDBOX_STATES
from multicri_proxy.runtime.records import Container, Sandbox

_PREFIX = re.compile(r"[0-9a-f]{12,63}")
_Id = TypeVar("_Id", bound=str)


def ids_that_match(text: str, ids: Iterable[_Id]) -> list[_Id]:
    """The id itself, or each one that it is the beginning of: crictl prints 13 digits of an id, and takes them back."""
    if _PREFIX.fullmatch(text):
        return [known for known in ids if known.startswith(text)]
    return [known for known in ids if known == text]


def select_sandboxes(
    records: Sequence[Sandbox], wanted: cri.PodSandboxFilter | cri.PodSandboxStatsFilter
) -> list[Sandbox]:
    """The sandboxes of a PodSandboxFilter or PodSandboxStatsFilter. The beginning of several ids matches none."""
    selected = _with_labels(records, wanted.label_selector)
    if wanted.id:
        only = _one(wanted.id, (sandbox.id for sandbox in records))
        selected = [sandbox for sandbox in selected if sandbox.id == only]
    if isinstance(wanted, cri.PodSandboxFilter) and wanted.HasField("state"):
        selected = [sandbox for sandbox in selected if SANDBOX_STATES[sandbox.state] == wanted.state.state]
    return selected


def select_containers(
    records: Sequence[Container], wanted: cri.ContainerFilter | cri.ContainerStatsFilter
) -> list[Container]:
    """The containers of a ContainerFilter or ContainerStatsFilter. The beginning of several ids matches none."""
    selected = _with_labels(records, wanted.label_selector)
    if wanted.id:
        only = _one(wanted.id, (container.id for container in records))
        selected = [container for container in selected if container.id == only]
    if wanted.pod_sandbox_id:
        pod = _one(wanted.pod_sandbox_id, {container.sandbox_id for container in records})
        selected = [container for container in selected if container.sandbox_id == pod]
    if isinstance(wanted, cri.ContainerFilter) and wanted.HasField("state"):
        selected = [container for container in selected if CONTAINER_STATES[container.state] == wanted.state.state]
    return selected


def _one(text: str, ids: Iterable[_Id]) -> _Id | None:
    matches = ids_that_match(text, ids)
    return matches[0] if len(matches) == 1 else None


_Record = TypeVar("_Record", Sandbox, Container)


def _with_labels(records: Sequence[_Record], selector: Mapping[str, str]) -> list[_Record]:
    return [record for record in records if all(record.labels.get(key) == value for key, value in selector.items())]
