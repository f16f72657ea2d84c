"""A sandbox's place in a network: all that is needed to undo it, even by another process with other settings."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.ids import PodSandboxId
from multicri_proxy.network.asked import HostPort
from multicri_proxy.network.configuration import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """netns: where the namespace is mounted. args: CNI_ARGS. capabilities: what a plug-in may take from the runtime.

    result: what the last plug-in answered to ADD; None as long as that has not ended well.
    """

    sandbox_id: PodSandboxId
    netns: Path
    bin_dir: Path
    network: Network
    args: str
    capabilities: Mapping[str, Any]
    ports: tuple[int, ...]
    host_ports: tuple[HostPort, ...]
    result: Mapping[str, Any] | None = None


def attachment_row(attachment: Attachment) -> bytes:
    values = asdict(attachment)
    return json.dumps(values | {"netns": str(attachment.netns), "bin_dir": str(attachment.bin_dir)}).encode()


def attachment_from_row(row: bytes) -> Attachment:
    """Raises FailedPrecondition: what is left out would be leaked."""
    try:
        values = json.loads(row)
        network = values["network"]
        return Attachment(
            sandbox_id=PodSandboxId(values["sandbox_id"]),
            netns=Path(values["netns"]),
            bin_dir=Path(values["bin_dir"]),
            network=Network(**network | {"plugins": tuple(network["plugins"])}),
            args=values["args"],
            capabilities=values["capabilities"],
            ports=tuple(values["ports"]),
            host_ports=tuple(HostPort(**one) for one in values["host_ports"]),
            result=values["result"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FailedPrecondition(f"the ledger holds a network that this version cannot read: {error}") from error
