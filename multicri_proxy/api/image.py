"""Images: what an adapter is given, what builds one, and how an adapter and the pool tell each other of them."""

import base64
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from multicri_proxy.api.errors import (
    FailedPrecondition,
    MulticriError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from multicri_proxy.api.ids import ImageId, ImageRef


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says of itself. user: as in its Dockerfile, ``name`` or ``uid``, each with an optional ``:group``.

    Source: OCI image specification, config.md.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image that has been pulled.

    id: ``sha256:`` of what it is, never of what containerd calls one: both may have the same image, in one list.
    source: where a builder takes it from, as a URI. ``docker://ghcr.io/acme/tool@sha256:…`` once the registry was
        asked; ``docker://ghcr.io/acme/tool:1.2`` if the node cannot reach it.
    names: every name under which it was pulled and that has not moved on to another image, oldest first.
    digests: names of the manifests that it was found under, ``multicri/docker-repository.ghcr.io/acme/tool@sha256:…``.
    size_bytes: of its layers, as the registry has them; 0 if it was not asked. config: None likewise.
    pinned: never to be removed to make room. signature: what its pull found out about that, for a human; empty if
        nobody looked.
    """

    id: ImageId
    source: str
    names: tuple[ImageRef, ...]
    digests: tuple[str, ...] = ()
    size_bytes: int = 0
    config: ImageConfig | None = None
    pinned: bool = False
    signature: str = ""

    @property
    def scheme(self) -> str:
        """Of its source: ``docker``, ``oras``, …"""
        return self.source.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAuth:
    """Who we are for one registry: username and password, or one of the tokens. None of it is ever printed.

    identity_token: an OAuth2 refresh token. registry_token: sent to the registry as it is.
    server_address: the registry that it is for; empty for that of the image.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server_address: str = ""

    def docker_config(self, registry: str) -> bytes:
        """A ``config.json`` of Docker's with this and nothing else, for ``--authfile``, ``DOCKER_CONFIG`` and such."""
        key = "https://index.docker.io/v1/" if registry == "docker.io" else registry
        entry = {
            "auth": base64.b64encode(f"{self.username}:{self.password}".encode()).decode() if self.username else "",
            "identitytoken": self.identity_token,
            "registrytoken": self.registry_token,
        }
        return json.dumps({"auths": {key: {name: value for name, value in entry.items() if value}}}).encode()


def username_and_password(pair: str) -> tuple[str, str]:
    """Of what Docker calls ``auth``: base64 of both with a colon between. Raises ValueError if it is not that."""
    try:
        username, colon, password = base64.b64decode(pair, validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if not colon:
        raise ValueError("no base64 of username:password") from None  # what it holds is secret
    return username, password.rstrip("\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSource:
    """Where one build takes an image from, and how it gets in there.

    uri: as `Image.source`. registry: its host, with an optional port; empty if the source has none.
    auth: None for an anonymous one. Whoever can read what a build leaves in the cluster can read it: to be given to
        builders in a file of mode 0600 that is gone after the build, never in argv.
    plain_http: the registry has no TLS. ca_certificates: PEM of the authorities that vouch for it, besides the usual.
    """

    uri: str
    registry: str = ""
    auth: RegistryAuth | None = None
    plain_http: bool = False
    ca_certificates: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureRule:
    """How a SIF file is to be looked at before it is used.

    keys: OpenPGP's public ones, of which one must have signed it. required: else it is only said.
    """

    keys: bytes
    required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image that was built on the node, to be brought to where it is used.

    path: of the node; it may be removed at any time, but what it holds never changes.
    suffix: ``.sif`` or ``.squashfs``.
    sha256: of the file, hexadecimal digits. config: OCI's; empty if the file itself has it where its runtime looks.
    """

    path: str
    suffix: str
    size_bytes: int
    sha256: str
    config: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What images take of a file system of this node.

    directory: where they are; how full its file system is, the kernel knows. sizes_bytes: the room that each takes.
    """

    directory: Path
    sizes_bytes: Mapping[ImageId, int] = field(default_factory=dict)
    inodes_used: int = 0

    @property
    def used_bytes(self) -> int:
        return sum(self.sizes_bytes.values())


class ImagePool(Protocol):
    """The images of all adapters of this proxy, kept through restarts."""

    def owns(self, name: str) -> bool:
        """Is this our image: by its name's form, or as the id of one that was pulled? Pure and fast."""
        ...

    async def pull(
        self, name: ImageRef, *, auth: RegistryAuth | None = None, namespace: str = "", plain: bool = False
    ) -> Image:
        """Find out what the name means now, and record it.

        auth: what the pod's namespace may pull it with; kept until the image is removed, for pods of the same one.
        plain: the name is ours by its runtime handler, and may be a mere reference.
        Raises InvalidArgument if the name cannot be understood or nothing builds its kind, NotFound if its registry
        has no such image, PermissionDenied if it does not let us.
        """
        ...

    def auth_in(self, docker_config: bytes, name: ImageRef) -> RegistryAuth | None:
        """What a ``config.json`` of Docker's has for the registry of an image; None if nothing.

        Raises InvalidArgument if the name cannot be understood, FailedPrecondition if the file cannot.
        """
        ...

    def find(self, name: str) -> Image | None:
        """The image with this name or id, if it was pulled."""
        ...

    def images(self) -> Sequence[Image]:
        """All images, in the order in which they were first pulled."""
        ...

    async def remove(self, name: str) -> Image | None:
        """Forget the image with this name or id, with all of its names; returns it. An unknown one is no error."""
        ...

    async def note_use(self, image_id: ImageId) -> None:
        """It is used now: those that were not for longest make room first. One that is unknown is no error."""
        ...

    async def surplus(self, in_use: Container[str], on_node: Mapping[ImageId, int]) -> Sequence[Image]:
        """What is to be removed for the pool to be within its limits, least recently used first.

        in_use: ids of containers' images, which stay. on_node: how many bytes images take on this node.
        """
        ...

    async def build_source(self, image: Image, namespace: str) -> BuildSource:
        """What a build of the image for a pod of this namespace is to be given. Ask anew for each build.

        Raises FailedPrecondition if the credentials cannot be had back.
        """
        ...

    async def signature_rule(self, image: Image) -> SignatureRule | None:
        """What an admin wants of the file that the image is, or is made of; None if nothing.

        Raises PermissionDenied if the image has to be signed, and is not, as its pull found, or cannot be.
        """
        ...

    async def file_suffix(self, runtime: str) -> str:
        """How the name of a file ends that this node would build for a container runtime, as ``apptainer``.

        Raises FailedPrecondition naming what has to be installed, if there is nothing on the node that builds one.
        """
        ...

    async def file(self, image: Image, namespace: str, runtime: str) -> ImageFile:
        """The image as a file of this node for a container runtime; built, once for everybody, unless it is there.

        A call that is cancelled leaves the build to the next one.
        Raises PermissionDenied if it is another namespace's, and what a failed build means.
        """
        ...

    def stored(self) -> Stored | None:
        """The files of images that it has on this node, from memory; None if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What makes an image, for whoever runs it.

    commands: one after the other, each in the environment below. environment: may be secret, so it never goes on a
        command line; names are letters, digits and ``_``.
    files: by path, what must be there before, readable by the account alone, and be removed afterwards.
    """

    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


class BuildCause(Enum):
    """Why a build failed, in words for a human."""

    NO_SUCH_IMAGE = "its registry has no such image or tag"
    UNAUTHORIZED = "its registry refuses us: an imagePullSecret is missing, or wrong for it"
    UNAUTHORIZED_OR_MISSING = "its registry has no such image, or does not let us see it without an imagePullSecret"
    UNREACHABLE = "its registry cannot be reached from where it is built"
    CUT_OFF = "the connection to its registry broke"
    UNTRUSTED = "the certificate of its registry is not trusted"
    PLAIN_HTTP = "its registry speaks HTTP without TLS, which an admin must allow"
    POISONED = "what its registry sent is not what its digest promises"
    NO_SPACE = "no space is left where it is built"
    NO_USER_NAMESPACES = "no user namespaces may be made where it is built"
    TOO_LATE = "it took too long"
    UNKNOWN = "its builder failed"


_ERRORS: Mapping[BuildCause, type[MulticriError]] = {
    BuildCause.NO_SUCH_IMAGE: NotFound,
    BuildCause.UNAUTHORIZED: PermissionDenied,
    BuildCause.UNREACHABLE: Unavailable,
    BuildCause.CUT_OFF: Unavailable,
    BuildCause.NO_SPACE: ResourceExhausted,
}
_LAST_WORDS = 8


def build_error(what: str, cause: BuildCause, log: str) -> MulticriError:
    """What a failed build means. what: for a human, who failed at what. log: the end of what the builder wrote."""
    words = " / ".join(line.strip() for line in log.splitlines()[-_LAST_WORDS:])
    return _ERRORS.get(cause, FailedPrecondition)(f"{what}: {cause.value}: {words}")


class ImageBuilder(Protocol):
    """Turns an image's source into something that a container runtime can start.

    Knows commands, not machines: the same builder serves the node and a cluster.
    """

    @property
    def name(self) -> str:
        """``apptainer``, ``singularity`` or ``charliecloud``."""
        ...

    @property
    def schemes(self) -> frozenset[str]:
        """Of the sources that it can build. A name that no builder can build is refused when it is pulled."""
        ...

    @property
    def programs(self) -> tuple[str, ...]:
        """What must be in PATH. The first one also runs containers."""
        ...

    @property
    def suffix(self) -> str:
        """Ending of the built image's file name; empty if it is a directory."""
        ...

    def recipe(self, source: BuildSource, target: str) -> Recipe:
        """What makes ``target`` from a source.

        target: absolute path that does not exist yet, in a directory where temporary files may be left
        beside it under the same name with a suffix.
        Raises FailedPrecondition for what this builder cannot do.
        """
        ...

    def downloads(self, target: str) -> str:
        """The directory where a build of ``target`` has what has come from the registry; empty if it is not known."""
        ...

    def cause(self, log: str) -> BuildCause:
        """Why a build failed, from the end of what it wrote. Pure."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What became of an image in one place.

    place: for a human, as ``alice@login.hpc.example.org:/home/alice/multi-cri/images``.
    size_bytes: once it is built. log: the end of what its builder wrote.
    done_bytes, of_bytes: how much of what is to come has come while it is building, as far as that is known.
    """

    place: str
    state: Literal["building", "built", "failed"]
    size_bytes: int = 0
    log: str = ""
    done_bytes: int = 0
    of_bytes: int = 0


@runtime_checkable
class BringsImages(Protocol):
    """An adapter that has images on this node, before there is a container."""

    async def bring_image(self, image: Image, namespace: str) -> None:
        """Have it here, when a pod of this namespace pulls it.

        Raises a MulticriError saying why it cannot be had; one that is cancelled goes on in the background.
        """
        ...

    def stored(self) -> Stored:
        """From memory."""
        ...


@runtime_checkable
class KeepsImages(Protocol):
    """An adapter that keeps what it builds. It need not.

    After a crash, what it keeps of images that the pool does not know is left over.
    """

    def builds(self, image_id: ImageId) -> Sequence[Build]:
        """From memory."""
        ...

    async def forget_image(self, image: Image) -> None:
        """It was removed from the pool: delete what was built of it, in the background, once no container uses it."""
        ...
