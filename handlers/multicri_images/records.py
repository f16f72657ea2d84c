"""An image in the pool, and its row in the store. Pure."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from multicri_images.names import digest_name, reference_of
from multicri_images.question import Finding
from multicri_proxy.api.ids import ImageId, ImageRef
from multicri_proxy.api.image import Image, ImageConfig


def image_id(text: str) -> ImageId:
    """The id of what this text means: the same on every node and after every restart.

    Never the digest of a manifest or a configuration as it is: containerd calls its own images so, and the kubelet
    may ask for one of those, to remove it say.
    """
    return ImageId(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a namespace has pulled the image with. sealed: its credentials; empty if it needed none."""

    uri: str
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An image, and what only the pool knows of it.

    number: in the order of pulls. sources: what its names mean, by name, as canonical URIs.
    platform: for which it was found. grants: by namespace.
    """

    image: Image
    number: int
    sources: Mapping[ImageRef, str]
    platform: str = ""
    grants: Mapping[str, Grant] = field(default_factory=dict)


def image_of(source: str, finding: Finding | None) -> Image:
    """What a source means: after its registry was asked, or for want of that."""
    reference = reference_of(source)
    if finding is None or reference is None:
        return Image(id=image_id(source), source=source, names=())
    scheme = source.partition("://")[0]
    return Image(
        id=image_id(f"{scheme}:{finding.content}"),
        source=f"{scheme}://{reference.at(finding.digest)}",
        names=(),
        digests=(digest_name(source, finding.digest),),
        size_bytes=finding.size_bytes,
        config=ImageConfig(
            entrypoint=finding.entrypoint,
            cmd=finding.cmd,
            env=finding.env,
            working_dir=finding.working_dir,
            user=finding.user,
        ),
    )


def in_repository(image: Image, source: str) -> Image:
    """The image as it is taken from the repository of this source, and no other that has it too."""
    reference, prefix = reference_of(source), digest_name(source, "")
    digest = next((name.removeprefix(prefix) for name in reversed(image.digests) if name.startswith(prefix)), None)
    if reference is None or digest is None:
        return replace(image, source=source)
    return replace(image, source=f"{source.partition(':')[0]}://{reference.at(digest)}")


def with_name(record: Record, found: Image, name: ImageRef, source: str) -> Record:
    """The image once it was found again, under this name."""
    known = record.image
    image = replace(
        known,
        source=found.source,
        names=known.names if name in known.names else (*known.names, name),
        digests=tuple(dict.fromkeys((*known.digests, *found.digests))),
        pinned=known.pinned or found.pinned,
        signature=found.signature,
    )
    return replace(record, image=image, sources={**record.sources, name: source})


def without_source(record: Record, source: str) -> Record:
    """The image once its tag has moved on to another one, with every name that means it."""
    sources = {name: meant for name, meant in record.sources.items() if meant != source}
    names = tuple(name for name in record.image.names if name in sources)
    return replace(record, image=replace(record.image, names=names), sources=sources)


def to_row(record: Record) -> bytes:
    image = record.image
    row = {
        "number": record.number,
        "id": image.id,
        "source": image.source,
        "names": image.names,
        "sources": dict(record.sources),
        "digests": image.digests,
        "size_bytes": image.size_bytes,
        "config": asdict(image.config) if image.config else None,
        "pinned": image.pinned,
        "signature": image.signature,
        "platform": record.platform,
        "grants": {
            namespace: {"uri": grant.uri, "sealed": base64.b64encode(grant.sealed).decode()}
            for namespace, grant in record.grants.items()
        },
    }
    return json.dumps(row).encode()


def from_row(value: bytes) -> Record:
    """Also a row of before registries were asked, which has neither ids nor digests."""
    row = json.loads(value)
    names, source = tuple(ImageRef(name) for name in row["names"]), str(row["source"])
    image = Image(
        id=ImageId(row["id"]) if "id" in row else image_id(source),
        source=source,
        names=names,
        digests=tuple(row.get("digests", ())),
        size_bytes=int(row["size_bytes"]),
        config=_config(row.get("config")),
        pinned=bool(row.get("pinned", False)),
        signature=str(row.get("signature", "")),
    )
    grants = {
        namespace: Grant(uri=grant["uri"], sealed=base64.b64decode(grant["sealed"]))
        for namespace, grant in row.get("grants", {}).items()
    }
    sources = row.get("sources") or dict.fromkeys(names, source)
    platform = str(row.get("platform", ""))
    return Record(image=image, number=int(row["number"]), sources=sources, platform=platform, grants=grants)


def _config(row: Mapping[str, object] | None) -> ImageConfig | None:
    if row is None:
        return None
    words = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return ImageConfig(**words)  # type: ignore[arg-type]
