"""Files in a cluster, whichever way leads to them."""

from typing import Protocol


class Files(Protocol):
    """What can be done with files, as the account.

    Paths are absolute, as the cluster knows them. Each verb raises NotFound if what leads to the path is not there,
    FailedPrecondition if the account may not, ResourceExhausted if a disk or a quota is full, else Unavailable.
    """

    async def mode_of(self, path: str) -> int | None:
        """Of what is there, also if that is a link, as stat(2) has it; None if nothing is."""
        ...

    async def is_directory(self, path: str) -> bool:
        """Also one that links lead to."""
        ...

    async def link_target(self, path: str) -> str: ...

    async def make_directory(self, path: bytes, mode: int) -> None:
        """One that is not there yet."""
        ...

    async def make_directories(self, path: str) -> None:
        """It, and those that lead to it, unless they are there."""
        ...

    async def make_mount_point(self, path: str, *, directory: bool) -> None:
        """An empty directory or file. No-op if anything is there."""
        ...

    async def write(self, path: bytes, content: bytes, mode: int) -> None:
        """Write a file that nobody may use otherwise at any time."""
        ...

    async def write_piece(self, path: bytes, offset: int, content: bytes) -> None:
        """Of a file, which is made if it is not there."""
        ...

    async def make_link(self, target: bytes, path: bytes) -> None: ...

    async def rename(self, path: bytes, new: bytes) -> None:
        """In one step; what is at the new path is replaced, unless it is a directory with something in it."""
        ...

    async def remove_file(self, path: bytes) -> None:
        """A file or a link. No-op if it is not there."""
        ...

    async def entries(self, directory: bytes) -> dict[bytes, int]:
        """The mode of each thing in it, by name; links are not followed."""
        ...
