"""What a built image says of itself: its entrypoint, default arguments and working directory.

Charliecloud's builder keeps it in ``/ch/config.pulled.json`` of the image, Apptainer's in an object of its SIF file
called ``oci-config.json``; a squashfs file has a file beside it. Apptainer itself runs an image without asking for the
working directory.

Source: the SIF format's global header and object descriptors (packed, little-endian), as Apptainer 1.4 writes them.
"""

import json
import struct
from collections.abc import Awaitable, Callable

from multicri_proxy.api.errors import FailedPrecondition
from multicri_slurm.runtimes import SQUASHFS, ImageConfig, Runtime
from multicri_slurm.verbs import ClusterVerbs

Read = Callable[[int, int], Awaitable[bytes | None]]
"""A piece of a file: from its offset, so many bytes. None if there is no such file."""

LARGEST_CONFIG_BYTES = 1024 * 1024
LARGEST_DESCRIPTORS_BYTES = 64 * 1024

_HEADER = struct.Struct("<32s10s3s3s16s8q")
_DESCRIPTOR = struct.Struct("<i?III7q128s384s")
_MAGIC = b"SIF_MAGIC\0"
_OCI_CONFIG = b"oci-config.json"


async def read_image_config(cluster: ClusterVerbs, runtime: Runtime, image_path: str) -> ImageConfig | None:
    """None if an image has nothing of the kind, so that its runtime alone knows what to run.

    Raises FailedPrecondition if it cannot be understood.
    """
    if image_path.endswith(SQUASHFS):
        directory, _, name = image_path.rpartition("/")
        text = await cluster.read_piece(f"{directory}/.{name.removesuffix(SQUASHFS)}.config", 0, LARGEST_CONFIG_BYTES)
        return config_of(text or b"{}", has_environment=True)
    if runtime.kind == "charliecloud":
        text = await cluster.read_piece(f"{image_path}/ch/config.pulled.json", 0, LARGEST_CONFIG_BYTES)
        has_environment = await cluster.size_of(f"{image_path}/ch/environment") is not None
        return config_of(text or b"{}", has_environment=has_environment)

    async def read(offset: int, size: int) -> bytes | None:
        return await cluster.read_piece(image_path, offset, size)

    text = await oci_config_of_sif(read)
    return config_of(text) if text is not None else None


async def oci_config_of_sif(read: Read) -> bytes | None:
    """The image's own configuration in a SIF file; None if it has none, or is none."""
    header = await read(0, _HEADER.size) or b""
    if len(header) < _HEADER.size:
        return None
    _, magic, *_, descriptors_at, descriptors_bytes, _, _ = _HEADER.unpack(header)
    if magic != _MAGIC or not 0 < descriptors_bytes <= LARGEST_DESCRIPTORS_BYTES or descriptors_at < 0:
        return None
    table = await read(descriptors_at, descriptors_bytes) or b""
    for at in range(0, len(table) - _DESCRIPTOR.size + 1, _DESCRIPTOR.size):
        _, used, _, _, _, offset, size, *_, name, _ = _DESCRIPTOR.unpack_from(table, at)
        if used and name.rstrip(b"\0") == _OCI_CONFIG and 0 < size <= LARGEST_CONFIG_BYTES and offset >= 0:
            return await read(offset, size)
    return None


def config_of(text: bytes, *, has_environment: bool = False) -> ImageConfig:
    """text: an OCI image's configuration, or the part of it that says how to run it.

    Raises FailedPrecondition if it is neither.
    """
    try:
        whole = json.loads(text)
        config = whole.get("config", whole) or {}
        return ImageConfig(
            entrypoint=_words(config.get("Entrypoint")),
            cmd=_words(config.get("Cmd")),
            working_dir=_path(config.get("WorkingDir")),
            has_environment=has_environment,
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FailedPrecondition(f"the image's configuration cannot be read: {error}") from error


def _words(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(word, str) and "\0" not in word for word in value):
        raise ValueError("an entrypoint or a command is no list of words")
    return tuple(value)


def _path(value: object) -> str:
    """Empty, or absolute: an image may say ``app`` for ``/app``."""
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("a working directory is no path")
    return f"/{value.lstrip('/')}"
