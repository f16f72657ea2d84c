"""Images that a container brings in its own volume: a file to run, or an Apptainer definition to build one of.

Which file that is, is known once it is known which volume the cluster has mounted for the container. The file is the
account's, and is only ever used as the account.
"""

import base64
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from multicri_proxy.api.image import Image
from multicri_slurm.image_config import config_of
from multicri_slurm.plan import Plan
from multicri_slurm.runtimes import SQUASHFS, ImageConfig, Runtime
from multicri_slurm.volumes import RESULTS_PATH, Kind, Volume

FILE, DEFINITION = "local-image", "local-def-file"
LARGEST_DEFINITION_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """path: in the cluster, absolute. config: what an image says of itself; None if its runtime alone knows.

    sum: of a definition, hexadecimal digits.
    """

    path: str
    form: Literal["sif", "squashfs", "definition"]
    config: ImageConfig | None = None
    sum: str = ""


def is_local(image: Image) -> bool:
    return image.scheme in {FILE, DEFINITION}


def volume_of(image: Image, volumes: Iterable[Volume]) -> Volume:
    """Where the image's file is. Raises InvalidArgument if the container has no such volume."""
    for volume in volumes:
        if volume.kind is Kind.RESULTS:
            return volume
    raise InvalidArgument(
        f"image {image.source}: is a file in the container's volume, and it has none: mount at {RESULTS_PATH!r} one "
        "that the cluster has mounted, too"
    )


def check_definition(plan: Plan) -> None:
    """Raises PermissionDenied if the pod may not have text of its own run outside of containers, as %setup is."""
    settings = plan.profile.settings
    if plan.spec.image.scheme == DEFINITION and plan.login.proof is not None and not settings.pod_prerun:
        raise PermissionDenied(
            f"image {plan.spec.image.source}: a definition runs outside of any container, and {plan.login.account} is "
            f"not the pod's own account: have an admin set {plan.profile.section}.pod_prerun"
        )


def file_of(image: Image, directory: str, found: Mapping[str, tuple[str, ...]], runtime: Runtime) -> LocalFile:
    """What was found in the volume's directory. Raises what is wrong with it."""
    name, where = image.source.partition(":")[2], f"image {image.source}: {posixpath.basename(directory)}"
    path, form = f"{directory}/{name}", found.get("done", ("",))[0]
    match form, runtime.kind:
        case "missing", _:
            raise NotFound(f"{where} has no file {name!r} ({path})")
        case "outside", _:
            raise InvalidArgument(f"{where}: {name!r} is a link that leads out of the volume")
        case "definition", "charliecloud":
            raise FailedPrecondition(f"{where}: only Apptainer and Singularity build definitions, and it has neither")
        case "definition", _:
            return LocalFile(path=path, form="definition", sum=found.get("sum", ("",))[0].partition(" ")[0])
        case "sif", "charliecloud":
            raise FailedPrecondition(f"{where}: {name!r} is a SIF file, which Charliecloud does not run")
        case "sif", _:
            return LocalFile(path=path, form="sif")
        case "squashfs", "charliecloud":
            if not runtime.takes_squashfs or not path.endswith(SQUASHFS):
                raise FailedPrecondition(
                    f"{where}: {name!r}: Charliecloud runs a SquashFS file only if its name ends with {SQUASHFS}, and "
                    "if ch-run mounts such files (ch-run --feature=squash, 0.34 or later)"
                )
            text = base64.b64decode(found.get("config", ("",))[0])
            config = config_of(text or b"{}", has_environment="environment" in found)
            return LocalFile(path=path, form="squashfs", config=config)
        case "squashfs", _:
            return LocalFile(path=path, form="squashfs")
        case "large", _:
            raise InvalidArgument(f"{where}: {name!r} is larger than {LARGEST_DEFINITION_BYTES} bytes")
        case "unreadable", _:
            raise FailedPrecondition(f"{where}: {name!r} is no file that the account can read")
    raise InvalidArgument(f"{where}: {name!r} is neither a SIF nor a SquashFS file")
