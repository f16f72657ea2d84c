"""What can be asked of a cluster about images: scripts that run there, whichever way has them run."""

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multicri_proxy.api.errors import FailedPrecondition, Unavailable
from multicri_proxy.api.log import Log
from multicri_slurm import image_scripts
from multicri_slurm.accounts import Login
from multicri_slurm.settings import Settings

LOCK_WAIT_S = 20
MOST_DIGITS = 15

_log = Log("slurm")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildAnswer:
    """What became of a build. log: the end of what it wrote, if it failed. evicted: ``NAME KiB`` of those removed."""

    failed: bool
    size_bytes: int
    log: str
    evicted: tuple[str, ...]


class ImageVerbs(ABC):
    """A login's view of the images in its cluster."""

    login: Login
    settings: Settings

    @abstractmethod
    async def _script(
        self,
        script: str,
        *words: str,
        timeout_s: float | None = None,
        long: bool = False,
        need_done: bool = True,
        prerun: bytes | None = None,
    ) -> Mapping[str, tuple[str, ...]]:
        """Have a script run in the cluster; returns what it says."""

    async def use_image(self, directory: str, file_name: str, holder: str) -> int | None:
        """Note that a container uses an image, which keeps it there; its size in bytes, or None if it is not there.

        file_name: the digits of its id, with its builder's suffix. holder: the container's directory.
        """
        name, dot, suffix = file_name.partition(".")
        check, wait_s = ("yes", self.settings.build_timeout_s) if self.settings.image_checksum else ("no", LOCK_WAIT_S)
        found = await self._script(
            image_scripts.USE,
            *(directory, name, f"{dot}{suffix}", holder, check, str(int(wait_s))),
            timeout_s=wait_s + self.settings.command_timeout_s,
            long=self.settings.image_checksum,
        )
        check_locking(found, directory, self.login)
        match found.get("done", ("",))[0]:
            case "there":
                return bytes_of_kib(found.get("size", ("",))[0])
            case "broken":
                _log.warning("an image was not what was built, and is built again", directory=directory, image=name)
                return None
            case "missing":
                return None
            case _:
                raise Unavailable(f"{self.login.account}: {directory}/{file_name} is being built or removed")

    async def build_image(
        self, directory: str, file_name: str, script: str, commands: Sequence[str], prerun: bytes | None
    ) -> BuildAnswer:
        """Have an image built, unless it is there. Waits for another build of the same image.

        script: of image_scripts.build_script.
        """
        settings = self.settings
        name, dot, suffix = file_name.partition(".")
        found = await self._script(
            script,
            *(directory, name, f"{dot}{suffix}", str(int(settings.build_timeout_s))),
            *(_most(settings), settings.build_in, "\n".join(settings.default_options())),
            *commands,
            timeout_s=2 * settings.build_timeout_s,
            long=True,
            prerun=prerun,
        )
        check_locking(found, directory, self.login)
        if found.get("error") == ("busy",):
            raise Unavailable(f"{self.login.account}: another build of {directory}/{file_name} does not end")
        return _built(found)

    async def arrive_image(self, directory: str, file_name: str, sent: str, sha256: str) -> BuildAnswer | None:
        """Make an image of a file that was sent; None if it is not what was sent, and is gone.

        file_name: without a suffix, the image is a directory, and the file a squashfs of it.
        """
        settings = self.settings
        name, dot, suffix = file_name.partition(".")
        found = await self._script(
            image_scripts.ARRIVE,
            *(directory, name, f"{dot}{suffix}", sent, sha256, str(LOCK_WAIT_S)),
            _most(settings),
            timeout_s=settings.build_timeout_s,
            long=True,
        )
        check_locking(found, directory, self.login)
        if found.get("error") == ("busy",):
            raise Unavailable(f"{self.login.account}: {directory}/{file_name} is being used, built or removed")
        return None if found.get("done") == ("broken",) else _built(found)

    async def look_at_image(self, volume: str, file: str, scheme: str) -> Mapping[str, tuple[str, ...]]:
        """What image_scripts.LOOK says of a file below a volume's directory."""
        wait_s = self.settings.command_timeout_s
        return await self._script(image_scripts.LOOK, volume, file, scheme, timeout_s=wait_s)

    async def verify_image(self, program: str, path: str, keys: bytes) -> Mapping[str, tuple[str, ...]]:
        """What image_scripts.VERIFY says of a SIF file, which is read whole."""
        encoded = base64.b64encode(keys).decode()
        return await self._script(
            image_scripts.VERIFY, program, path, encoded, timeout_s=self.settings.build_timeout_s, long=True
        )

    async def forget_image(self, directory: str, name: str) -> bool:
        """Remove an image, of whatever builder, with all that is known of it; False if it is still needed."""
        found = await self._script(image_scripts.FORGET, directory, name)
        return found.get("done") == ("forgotten",)


def check_locking(found: Mapping[str, tuple[str, ...]], directory: str, login: Login) -> None:
    """Raises FailedPrecondition if a script says that it could not lock anything there."""
    if found.get("error") == ("unlockable",):
        raise FailedPrecondition(
            f"{login.account}: flock does not work in {directory} ({' '.join(found.get('stderr', ()))}): "
            "set slurm.mount_path to a file system with locks, or mount this one with them (Lustre: -o flock)"
        )


def _most(settings: Settings) -> str:
    """What images may have together, as image_scripts wants it: KiB and their number; 0 is no limit."""
    return f"{-(-settings.image_directory_bytes // 1024)} {settings.image_directory_count}"


def bytes_of_kib(text: str) -> int:
    """An image's size as its build wrote it down; 0 if that is no size."""
    return int(text) * 1024 if text.isdecimal() and len(text) <= MOST_DIGITS else 0


def _built(found: Mapping[str, tuple[str, ...]]) -> BuildAnswer:
    return BuildAnswer(
        failed="error" in found,
        size_bytes=bytes_of_kib(found.get("size", ("",))[0]),
        log="\n".join(found.get("log", ())),
        evicted=found.get("evicted", ()),
    )
