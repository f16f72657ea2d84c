"""Images: what an adapter is given, and what builds one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from multicri_proxy.api.ids import ImageId, ImageRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image that has been pulled.

    source: where a builder takes it from, as a URI (``docker://docker.io/library/perl:5``).
    names: every name under which it was pulled, oldest first.
    size_bytes: 0 until a build has told it.
    """

    id: ImageId
    source: str
    names: tuple[ImageRef, ...]
    size_bytes: int = 0


class ImagePool(Protocol):
    """The images of all adapters of this proxy, kept through restarts."""

    def owns(self, name: str) -> bool:
        """Is this our image: by its name's form, or as the id of one that was pulled? Pure and fast."""
        ...

    async def pull(self, name: ImageRef) -> Image:
        """Record the image under this name.

        Raises InvalidArgument if the name cannot be understood.
        """
        ...

    def find(self, name: str) -> Image | None:
        """The image with this name or id, if it was pulled."""
        ...

    def images(self) -> Sequence[Image]:
        """All images, in the order in which they were first pulled."""
        ...

    async def remove(self, name: str) -> None:
        """Forget the image with this name or id, with all of its names. One that is unknown is no error."""
        ...


class ImageBuilder(Protocol):
    """Turns an image's source into something that a container runtime can start.

    Knows commands, not machines: the same builder serves the node and a cluster.
    """

    @property
    def name(self) -> str:
        """``apptainer``, ``singularity`` or ``charliecloud``."""
        ...

    @property
    def programs(self) -> tuple[str, ...]:
        """What must be in PATH. The first one also runs containers."""
        ...

    @property
    def suffix(self) -> str:
        """Ending of the built image's file name; empty if it is a directory."""
        ...

    def build(self, source: str, target: str) -> Sequence[Sequence[str]]:
        """The commands that make ``target`` from ``source``, to be run one after the other.

        target: absolute path that does not exist yet, in a directory where temporary files may be left
        beside it under the same name with a suffix.
        """
        ...
