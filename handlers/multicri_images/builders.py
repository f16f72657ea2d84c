"""How each container runtime makes an image."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from multicri_images.causes import cause_of
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.image import BuildCause, BuildSource, ImageBuilder, Recipe, RegistryAuth

DOCKER = "docker://"
LOCAL_IMAGE, LOCAL_DEFINITION = "local-image", "local-def-file"
"""Schemes of files in a container's volume. In a cluster, the URI of a definition has its absolute path."""


@dataclass(frozen=True, slots=True)
class _Sif:
    """Apptainer and SingularityCE: one file.

    A password goes by environment, which every release knows, a token in Docker's form by ``--authfile``. Go adds the
    certificates of SSL_CERT_FILE to those of the system's directories.

    Source: apptainer build(1); Go's crypto/x509.
    """

    name: str
    schemes: frozenset[str] = frozenset({"docker", "oras", "library", "shub", LOCAL_IMAGE, LOCAL_DEFINITION})

    @property
    def programs(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def suffix(self) -> str:
        return ".sif"

    def recipe(self, source: BuildSource, target: str) -> Recipe:
        if source.uri.startswith(f"{LOCAL_DEFINITION}:/"):
            return self._of_definition(source.uri.partition(":")[2], target)
        # its cache is the account's, and two builds at once read what the other has half written
        scheme = source.uri.partition(":")[0]
        verb = "build" if scheme == "docker" else "pull"  # what is a SIF file keeps its signatures only by the latter
        words = [self.name, verb, "--disable-cache"]
        environment: dict[str, str] = {}
        files: dict[str, bytes] = {}
        if source.plain_http:
            words += ["--no-https"]
        if source.ca_certificates:
            environment["SSL_CERT_FILE"] = f"{target}.ca"
            files[f"{target}.ca"] = source.ca_certificates
        if source.auth is not None and source.auth.username:
            prefix = self.name.upper()
            environment[f"{prefix}_DOCKER_USERNAME"] = source.auth.username
            environment[f"{prefix}_DOCKER_PASSWORD"] = source.auth.password
        elif source.auth is not None:
            words += ["--authfile", f"{target}.auth"]
            files[f"{target}.auth"] = source.auth.docker_config(source.registry)
        return Recipe(commands=((*words, target, _uri(source.uri, self)),), environment=environment, files=files)

    def _of_definition(self, path: str, target: str) -> Recipe:
        """What it names by relative paths is beside it."""
        words = ("sh", "-c", 'cd -- "$1" && shift && exec "$@"', "sh", posixpath.dirname(path))
        return Recipe(commands=((*words, self.name, "build", "--disable-cache", target, path),))

    def downloads(self, target: str) -> str:
        return ""

    def cause(self, log: str) -> BuildCause:
        return cause_of(log)


@dataclass(frozen=True, slots=True)
class _Charliecloud:
    """Charliecloud: a directory, or a squashfs file of it and, beside that, what the image says of itself.

    ch-image's own storage directory is made beside the target and removed again: its lock is not waited for, so that
    two builds must never share one. Its build cache is off: it would want Git and a Git identity. It speaks HTTPS
    alone, and REQUESTS_CA_BUNDLE takes the place of the system's certificates, which therefore are part of it.

    Source: ch-image(1), ch-convert(1).
    """

    name: str
    suffix: str
    schemes: frozenset[str] = frozenset({"docker", LOCAL_IMAGE})

    @property
    def programs(self) -> tuple[str, ...]:
        return ("ch-run", "ch-image", "ch-convert", *(("mksquashfs",) if self.suffix else ()))

    def recipe(self, source: BuildSource, target: str) -> Recipe:
        if source.plain_http:
            raise FailedPrecondition(f"registry {source.registry}: Charliecloud pulls over HTTPS alone: use Apptainer")
        reference, storage = _uri(source.uri, self).removeprefix(DOCKER), f"{target}.storage"
        environment = {"CH_IMAGE_CACHE": "disabled", "CH_IMAGE_STORAGE": storage}
        commands: list[tuple[str, ...]] = []
        files: dict[str, bytes] = {}
        if source.ca_certificates:
            files[f"{target}.ca"] = source.ca_certificates
            environment["REQUESTS_CA_BUNDLE"] = f"{target}.bundle"
            commands.append(("sh", "-c", _BUNDLE, "sh", f"{target}.ca", f"{target}.bundle"))
        auth = _password(source.auth)
        form, config = (
            ("squash", (("sh", "-c", _CONFIG, "sh", storage, f"{target}.config"),)) if self.suffix else ("dir", ())
        )
        return Recipe(
            commands=(
                *commands,
                ("ch-image", *(("--auth",) if auth else ()), "pull", reference),
                *config,
                ("ch-convert", "-i", "ch-image", "-o", form, reference, target),
                ("chmod", "-R", "u+rwX", storage),
                ("rm", "-rf", storage),
            ),
            environment={**environment, **auth},
            files=files,
        )

    def downloads(self, target: str) -> str:
        return f"{target}.storage/dlcache"

    def cause(self, log: str) -> BuildCause:
        return cause_of(log)


_BUNDLE = (
    "cat /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem 2>/dev/null "
    '| cat - "$1" > "$2"'
)
"""Debian's, Red Hat's and SUSE's certificates, as far as they are there, and those of a file."""

_CONFIG = 'cat "$1"/img/*/ch/config.pulled.json > "$2"'


def _password(auth: RegistryAuth | None) -> Mapping[str, str]:
    if auth is None:
        return {}
    if not auth.username:
        raise FailedPrecondition("Charliecloud knows a username and a password for a registry, and no tokens")
    return {"CH_IMAGE_USERNAME": auth.username, "CH_IMAGE_PASSWORD": auth.password}


def _uri(uri: str, builder: ImageBuilder) -> str:
    """As its program takes it: without the tag, if there is a digest, since ch-image knows one or the other."""
    scheme, _, rest = uri.partition("://")
    if scheme not in builder.schemes or not rest:
        possible = ", ".join(sorted(builder.schemes - {LOCAL_IMAGE, LOCAL_DEFINITION}))
        raise FailedPrecondition(f"image source {uri!r}: {builder.name} builds from {possible} only")
    name, at, digest = rest.partition("@")
    directory, slash, last = name.rpartition("/")
    return f"{scheme}://{directory}{slash}{last.partition(':')[0]}@{digest}" if at else uri


APPTAINER: ImageBuilder = _Sif("apptainer")
SINGULARITY: ImageBuilder = _Sif("singularity")
CHARLIECLOUD: ImageBuilder = _Charliecloud("charliecloud", "")
CHARLIECLOUD_SQUASHFS: ImageBuilder = _Charliecloud("charliecloud-squashfs", ".squashfs")
