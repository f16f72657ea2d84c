"""How each container runtime makes an image from a ``docker://`` source."""

from collections.abc import Sequence
from dataclasses import dataclass

from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.image import ImageBuilder

DOCKER = "docker://"


@dataclass(frozen=True, slots=True)
class _Sif:
    """Apptainer and SingularityCE: one file.

    Source: apptainer build(1).
    """

    name: str
    schemes: frozenset[str] = frozenset({"docker"})

    @property
    def programs(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def suffix(self) -> str:
        return ".sif"

    def build(self, source: str, target: str) -> Sequence[Sequence[str]]:
        return ((self.name, "build", target, f"{DOCKER}{_reference(source)}"),)


@dataclass(frozen=True, slots=True)
class _Charliecloud:
    """Charliecloud: a directory.

    ch-image's own storage directory is made beside the target and removed again: its lock is not waited for, so that
    two builds must never share one. Its build cache is off: it would want Git and a Git identity.

    Source: ch-image(1), ch-convert(1).
    """

    name: str = "charliecloud"
    schemes: frozenset[str] = frozenset({"docker"})

    @property
    def programs(self) -> tuple[str, ...]:
        return ("ch-run", "ch-image", "ch-convert")

    @property
    def suffix(self) -> str:
        return ""

    def build(self, source: str, target: str) -> Sequence[Sequence[str]]:
        reference = _reference(source)
        storage = f"{target}.storage"
        environment = ("env", "CH_IMAGE_CACHE=disabled", f"CH_IMAGE_STORAGE={storage}")
        return (
            (*environment, "ch-image", "pull", reference),
            (*environment, "ch-convert", "-i", "ch-image", "-o", "dir", reference, target),
            ("chmod", "-R", "u+rwX", storage),
            ("rm", "-rf", storage),
        )


def _reference(source: str) -> str:
    if not source.startswith(DOCKER):
        raise InvalidArgument(f"image source {source!r}: only {DOCKER} can be built")
    return source.removeprefix(DOCKER)


APPTAINER: ImageBuilder = _Sif("apptainer")
SINGULARITY: ImageBuilder = _Sif("singularity")
CHARLIECLOUD: ImageBuilder = _Charliecloud()
