"""What an image's name means: the one parser of the names that begin with ``multicri/``. Pure.

    multicri/docker-repository.perl            -> docker://docker.io/library/perl:latest
    multicri/docker.ghcr.io/acme/tool:1.2      -> docker://ghcr.io/acme/tool:1.2
    multicri/docker.perl.img:latest            -> docker://docker.io/library/perl:latest

A reference is read as Docker reads it: without a registry it is Docker Hub's, without a namespace it is
``library/``'s, without a tag or digest it is ``:latest``. ``.img`` at the end of the repository is the file format
that multi-cri wanted to see there, and no part of the reference.

Source: distribution/reference; multi-cri's README, "Images".
"""

import re

from multicri_proxy.api.errors import InvalidArgument

PREFIX = "multicri/"
DOCKER_FORMS = ("docker-repository.", "docker.")
FORMS_OF_MULTICRI = ("singularity-repository.", "local-image.", "local-def-file.")
POSSIBLE = "possible today: multicri/docker-repository.<reference>, for example multicri/docker-repository.perl:5"

DEFAULT_REGISTRY = "docker.io"
OTHER_NAMES_OF_DOCKER_HUB = frozenset({"index.docker.io", "registry-1.docker.io"})
LONGEST_REPOSITORY = 255
LONGEST_NAME = 1024

_ALPHABET = re.compile(r"[A-Za-z0-9._:/@-]+", re.ASCII)
_REGISTRY = re.compile(
    r"(?:[a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])(?:\.(?:[a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9]))*(?::[0-9]{1,5})?", re.ASCII
)
_PATH_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", re.ASCII)


def source_of(name: str) -> str:
    """The canonical URI of the source that an image's name means.

    Raises InvalidArgument: says what is wrong with the name, and what is possible.
    """
    if len(name) > LONGEST_NAME:
        raise InvalidArgument(f"image name {name[:60]!r}…: it is longer than {LONGEST_NAME} characters")
    try:
        return _docker_uri(_reference(name))
    except ValueError as error:
        raise InvalidArgument(f"image name {name!r}: {error}; {POSSIBLE}") from error


def _reference(name: str) -> str:
    if not name.startswith(PREFIX):
        raise ValueError(f"it does not begin with {PREFIX!r}")
    rest = name.removeprefix(PREFIX)
    if rest.startswith("docker.io/"):
        raise ValueError(f"it is a plain reference: write {PREFIX}{DOCKER_FORMS[0]}{rest}")
    for form in DOCKER_FORMS:
        if rest.startswith(form):
            return rest.removeprefix(form)
    for form in FORMS_OF_MULTICRI:
        if rest.startswith(form):
            raise ValueError(f"images of the kind {form.removesuffix('.')!r} are not supported yet")
    raise ValueError(f"{rest.partition('.')[0][:40]!r} is not a kind of image")


def _docker_uri(reference: str) -> str:
    if not _ALPHABET.fullmatch(reference):
        raise ValueError("the reference is empty or has other characters than A-Z a-z 0-9 . _ : / @ -")
    rest, at, digest = reference.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError("after @ there is no sha256 or sha512 digest in lower-case hexadecimal digits")
    slash = rest.rfind("/")
    colon = rest.find(":", slash + 1)
    repository, tag = (rest[:colon], rest[colon + 1 :]) if colon >= 0 else (rest, "")
    if colon >= 0 and not _TAG.fullmatch(tag):
        raise ValueError(f"{tag[:40]!r} is not a tag: 1 to 128 of A-Z a-z 0-9 _ . -, not beginning with . or -")
    registry, path = _registry_and_path(repository.removesuffix(".img"))
    end = f":{tag}" if tag else ("" if digest else ":latest")
    return f"docker://{registry}/{path}{end}{at}{digest}"


def _registry_and_path(repository: str) -> tuple[str, str]:
    first, slash, others = repository.partition("/")
    if slash and (any(c in first for c in ".:") or first.lower() == "localhost"):
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
