"""What an image's name means: the one parser of the names that begin with ``multicri/``. Pure.

    multicri/docker-repository.perl                 -> docker://docker.io/library/perl:latest
    multicri/docker.ghcr.io/acme/tool:1.2           -> docker://ghcr.io/acme/tool:1.2
    multicri/docker.perl.img:latest                 -> docker://docker.io/library/perl:latest
    multicri/singularity-repository.acme/lab/tool   -> shub:// library:// or oras://, by the admin's choice
    multicri/local-image.tool.sif                   -> local-image:tool.sif
    multicri/local-def-file.tool.def                -> local-def-file:tool.def

A reference is read as Docker reads it: without a registry it is Docker Hub's, without a namespace it is
``library/``'s, without a tag or digest it is ``:latest``. ``.img`` at the end of the repository is the file format
that multi-cri wanted to see there, and no part of the reference.

Source: distribution/reference; multi-cri's README, "Images".
"""

import re
from dataclasses import dataclass
from typing import Literal

from multicri_proxy.api.errors import InvalidArgument

PREFIX = "multicri/"
DOCKER_FORMS = ("docker-repository.", "docker.")
SINGULARITY_FORM = "singularity-repository."
FILE_FORMS = ("local-image.", "local-def-file.")
POSSIBLE = (
    "possible: multicri/docker-repository.<reference>, for example multicri/docker-repository.perl:5, "
    "multicri/singularity-repository.<reference>, multicri/local-image.<file> and multicri/local-def-file.<file>"
)

SingularityScheme = Literal["shub", "library", "oras"]

DEFAULT_REGISTRY = "docker.io"
OTHER_NAMES_OF_DOCKER_HUB = frozenset({"index.docker.io", "registry-1.docker.io"})
LONGEST_REPOSITORY = 255
LONGEST_NAME = 1024

_ALPHABET = re.compile(r"[A-Za-z0-9._:/@\[\]-]+", re.ASCII)
_LABEL = r"(?:[a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:]{{2,45}}\])(?::[0-9]{{1,5}})?", re.ASCII)
_PATH_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", re.ASCII)
_BARE_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_LIBRARY = re.compile(rf"{_PART}(?:/{_PART}){{0,3}}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._@+-]*)*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image in a registry. tag, digest: at least one of them; the digest counts if both are there."""

    registry: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag, digest = f":{self.tag}" if self.tag else "", f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.path}{tag}{digest}"

    def at(self, digest: str) -> "Reference":
        """What this digest names in the same repository."""
        return Reference(registry=self.registry, path=self.path, digest=digest)


def source_of(name: str, *, plain: bool = False, singularity: SingularityScheme = "shub") -> str:
    """The canonical URI of the source that an image's name means.

    plain: a mere reference is ours, too. singularity: what a ``singularity-repository.`` is.
    Raises InvalidArgument: says what is wrong with the name, and what is possible.
    """
    if len(name) > LONGEST_NAME:
        raise InvalidArgument(f"image name {name[:60]!r}…: it is longer than {LONGEST_NAME} characters")
    try:
        return _uri(name, plain, singularity)
    except ValueError as error:
        raise InvalidArgument(f"image name {name!r}: {error}; {POSSIBLE}") from error


def digest_name(source: str, digest: str) -> str:
    """The name of what a digest names in the repository of a source."""
    scheme, reference = source.partition(":")[0], reference_of(source)
    assert reference is not None  # noqa: S101  (it was asked for the digest)
    form = DOCKER_FORMS[0] if scheme == "docker" else SINGULARITY_FORM
    return f"{PREFIX}{form}{reference.registry}/{reference.path}@{digest}"


def without_form(name: str) -> str:
    """A name as every other runtime has it, if it can be said so."""
    return name.removeprefix(f"{PREFIX}{DOCKER_FORMS[0]}")


def reference_of(source: str) -> Reference | None:
    """The registry's image that a canonical source is; None if it is none of a registry."""
    scheme, _, rest = source.partition("://")
    return _reference(rest) if scheme in {"docker", "oras"} else None


def _uri(name: str, plain: bool, singularity: SingularityScheme) -> str:
    if not name.startswith(PREFIX):
        if plain:
            return f"docker://{_reference(name)}"
        raise ValueError(f"it does not begin with {PREFIX!r}")
    rest = name.removeprefix(PREFIX)
    if rest.startswith("docker.io/"):
        raise ValueError(f"it is a plain reference: write {PREFIX}{DOCKER_FORMS[0]}{rest}")
    for form in DOCKER_FORMS:
        if rest.startswith(form):
            return f"docker://{_reference(rest.removeprefix(form))}"
    if rest.startswith(SINGULARITY_FORM):
        return _singularity_uri(rest.removeprefix(SINGULARITY_FORM), singularity)
    for form in FILE_FORMS:
        if rest.startswith(form):
            return f"{form.removesuffix('.')}:{_file(rest.removeprefix(form))}"
    raise ValueError(f"{rest.partition('.')[0][:40]!r} is not a kind of image")


def _singularity_uri(rest: str, scheme: SingularityScheme) -> str:
    if scheme == "oras":
        return f"oras://{_reference(rest)}"
    if not _LIBRARY.fullmatch(rest):
        raise ValueError(f"{rest[:80]!r} is no image of a {scheme}:// repository: write owner/collection/image:tag")
    return f"{scheme}://{rest}"


def _file(rest: str) -> str:
    """The kubelet puts ``:latest`` at the end of a name without a tag."""
    file = rest.removesuffix(":latest")
    if not _FILE.fullmatch(file):
        raise ValueError(
            f"{file[:80]!r} is no relative path of a file: A-Z a-z 0-9 . _ @ + - and /, no part beginning with ."
        )
    return file


def _reference(text: str) -> Reference:
    """Raises ValueError, saying what of it is wrong."""
    if not _ALPHABET.fullmatch(text):
        raise ValueError("the reference is empty or has other characters than A-Z a-z 0-9 . _ : / @ -")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError("after @ there is no sha256 or sha512 digest in lower-case hexadecimal digits")
    slash = rest.rfind("/")
    colon = rest.find(":", slash + 1)
    repository, tag = (rest[:colon], rest[colon + 1 :]) if colon >= 0 else (rest, "")
    if colon >= 0 and not _TAG.fullmatch(tag):
        raise ValueError(f"{tag[:40]!r} is not a tag: 1 to 128 of A-Z a-z 0-9 _ . -, not beginning with . or -")
    if _BARE_ID.fullmatch(repository):
        raise ValueError("64 hexadecimal digits are an image's id, and no reference")
    registry, path = _registry_and_path(repository.removesuffix(".img"))
    return Reference(registry=registry, path=path, tag=tag or ("" if digest else "latest"), digest=digest)


def _registry_and_path(repository: str) -> tuple[str, str]:
    first, slash, others = repository.partition("/")
    if slash and (any(c in first for c in ".:") or first != first.lower() or first == "localhost"):
        registry, path = first.lower(), others
    else:
        registry, path = DEFAULT_REGISTRY, repository
    if registry in OTHER_NAMES_OF_DOCKER_HUB:
        registry = DEFAULT_REGISTRY
    if not _REGISTRY.fullmatch(registry):
        raise ValueError(f"{first[:80]!r} is not a registry's host name with an optional :port")
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    for component in path.split("/"):
        if not _PATH_COMPONENT.fullmatch(component):
            raise ValueError(
                f"{component[:80]!r} is not a part of a repository's name: lower-case letters and digits, "
                "parted by one dot, one or two underscores, or dashes"
            )
    if len(f"{registry}/{path}") > LONGEST_REPOSITORY:
        raise ValueError(f"the repository's name is longer than {LONGEST_REPOSITORY} characters")
    return registry, path
