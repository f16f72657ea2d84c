"""The Charliecloud adapter on this machine."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from multicri_charliecloud.adapter import adapter
from runtime.doubles import MemoryImages

from contract.bench import AdapterBench
from multicri_proxy.api.adapter import AdapterFactory, ContainerSpec, Resources
from multicri_proxy.api.image import BuildSource, Image


class BedImages(MemoryImages):
    """Of the bed's registry, which nobody else vouches for. The only one is known before it is pulled."""

    def __init__(self, certificate: Path) -> None:
        super().__init__()
        self._certificates = certificate.read_bytes()

    def find(self, name: str) -> Image | None:
        return Image(id=name, source="", names=())  # type: ignore[arg-type]

    async def build_source(self, image: Image, namespace: str) -> BuildSource:
        return BuildSource(uri=image.source, ca_certificates=self._certificates)


@dataclass(kw_only=True)
class NodeBench(AdapterBench):
    """directory: the adapter's. image: by the address of the bed's registry."""

    directory: Path
    image: str
    factory: AdapterFactory = adapter
    settings: dict[str, object] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = {"directory": str(self.directory)}

    def spec(
        self,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str | bytes] | None = None,
        resources: Resources | None = None,
    ) -> ContainerSpec:
        return self.container(self.image, command, args, env or {}, resources=resources)

    def remains(self, spec: ContainerSpec) -> list[str]:
        return [*map(str, self.directory.glob(f"containers/{spec.id}")), *_processes_of(spec.id)]


def _processes_of(container_id: str) -> list[str]:
    """Supervisors, by their arguments, and what runs in a container, by ch-run's or by its control group."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = b"".join((process / name).read_bytes() for name in ("cmdline", "cgroup"))
        except OSError:
            continue
        if container_id.encode() in told and int(process.name) != os.getpid():
            found.append(f"{process.name}: {told!r}")
    return found
