"""Signatures of SIF files, looked at in the cluster before each container: the account may have changed them."""

from multicri_proxy.api.errors import PermissionDenied
from multicri_proxy.api.image import Image, SignatureRule
from multicri_proxy.api.log import Log
from multicri_slurm.runtimes import Runtime
from multicri_slurm.verbs import ClusterVerbs

LONGEST_WORDS = 300

_log = Log("slurm.images")


async def signature_of(
    cluster: ClusterVerbs, runtime: Runtime, image: Image, path: str, rule: SignatureRule | None
) -> str:
    """Who has signed it, or why that is not known, for a human; empty if nobody wants to know.

    Raises PermissionDenied if that has to be somebody, and is nobody.
    """
    if rule is None:
        return ""
    if runtime.kind == "charliecloud":
        found, signers, words = False, "", "Charliecloud verifies no signatures"
    else:
        said = await cluster.verify_image(runtime.kind, path, rule.keys)
        found, signers = said.get("done") == ("verified",), " ".join(said.get("fingerprint", ()))
        words = " / ".join(line.strip() for line in said.get("log", ()))[-LONGEST_WORDS:]
    if found:
        _log.info("an image is signed", source=image.source, path=path, keys=signers)
        return f"verified, signed by {signers}"
    if rule.required:
        raise PermissionDenied(f"image {image.source}: images.signatures: enforce, and it is not verified: {words}")
    _log.warning("an image is not known to be signed", source=image.source, path=path, reason=words)
    return f"not verified: {words}"
