"""The images that were pulled: in memory, and in the store so that a restart keeps them.

Nothing is pulled to the node by a pull: it finds out what a name means now, and records that. Where images are built on
the node, that is done for the first container, and node_files.py's business. Credentials stay with the
namespace whose pod brought them, for whatever a build is given can be read in the cluster by the pod's account.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from multicri_images.asking import Asking, Silent
from multicri_images.builders import LOCAL_DEFINITION
from multicri_images.building import DEFAULT_DIRECTORY
from multicri_images.credentials import checked, of_docker_config
from multicri_images.eviction import surplus
from multicri_images.names import (
    PREFIX,
    Reference,
    SingularityScheme,
    digest_name,
    reference_of,
    source_of,
    without_form,
)
from multicri_images.node_files import NOBODYS, NodeFiles, stored_in
from multicri_images.question import Known, Question
from multicri_images.records import (
    Grant,
    Record,
    from_row,
    image_id,
    image_of,
    in_repository,
    to_row,
    with_name,
    without_source,
)
from multicri_images.signatures import NO_KEYS, UNVERIFIED, is_verified, verified
from multicri_proxy.api.adapter import ImagesContext
from multicri_proxy.api.counts import Result
from multicri_proxy.api.errors import (
    FailedPrecondition,
    InvalidArgument,
    MulticriError,
    PermissionDenied,
    Unavailable,
)
from multicri_proxy.api.ids import ImageId, ImageRef
from multicri_proxy.api.image import BuildSource, Image, ImageFile, ImagePool, RegistryAuth, SignatureRule, Stored
from multicri_proxy.api.log import Log
from multicri_proxy.api.tasks import Tasks

if TYPE_CHECKING:
    from multicri_images.settings import Settings

__all__ = ["image_id", "pool"]

SILENCE_S = 60.0
"""For so long a registry that did not answer in time is not asked again, if the pull can do without an answer: a
kubelet pulls one image after the other, those of ordinary pods too."""

LARGEST_FILE_BYTES = 1024 * 1024

_USED = "used "
"""Keys of the store with the time when an image was used last; all others are ids of images."""

_HEX = re.compile(r"[0-9a-f]{12,64}", re.ASCII)  # crictl prints 13 digits of an id
_log = Log("images")


@asynccontextmanager
async def pool(context: ImagesContext) -> AsyncIterator[ImagePool]:
    """The plug-in: an ImagesFactory."""
    rows = await context.store.items()
    records = [from_row(value) for key, value in rows if not key.startswith(_USED)]
    used = {ImageId(key.removeprefix(_USED)): int(value) for key, value in rows if key.startswith(_USED)}
    async with Tasks() as tasks:
        pool = Pool(context, tasks, sorted(records, key=lambda record: record.number), used)
        if records:
            tasks.start("look which images are on the node", pool.look)
        yield pool


class Pool:
    """Images by id. Two names of one image are one image with two names."""

    def __init__(
        self, context: ImagesContext, tasks: Tasks, records: Sequence[Record], used: Mapping[ImageId, int]
    ) -> None:
        self._context = context
        self._store = context.store
        self._tasks = tasks
        self._records = {record.image.id: record for record in records}
        self._used_at_ns = dict(used)
        self._next = max((record.number for record in records), default=-1) + 1
        self._writing = asyncio.Lock()
        self._asking = Asking()
        self._pulls: dict[tuple[str, RegistryAuth | None], asyncio.Future[Image]] = {}
        self._schemes = frozenset[str]().union(*(builder.schemes for builder in context.image_builders))
        self._silent: dict[str, float] = {}
        self._checked: Settings | None = None
        self._node_files: NodeFiles | None = None
        self._directory = str(context.settings.get("directory", DEFAULT_DIRECTORY))
        self._stored = Stored(directory=Path(self._directory))
        self._looking = asyncio.Lock()

    def owns(self, name: str) -> bool:
        return name.startswith(PREFIX) or self._by_id(name) is not None

    async def pull(
        self, name: ImageRef, *, auth: RegistryAuth | None = None, namespace: str = "", plain: bool = False
    ) -> Image:
        settings, scheme = await self._settings(), "unknown"
        result: Result = "failed"
        try:
            source = source_of(name, plain=plain, singularity=settings.singularity_repository)
            scheme = source.partition(":")[0]
            image = await self._pull(name, source, auth, namespace, settings)
            result = "ok"
        finally:
            self._context.counts.pulls[scheme, result] += 1
        return image

    async def _pull(
        self, name: ImageRef, source: str, auth: RegistryAuth | None, namespace: str, settings: "Settings"
    ) -> Image:
        scheme = source.partition(":")[0]
        if scheme not in self._schemes:
            raise InvalidArgument(f"image name {name!r}: nothing here builds images of {scheme!r} yet")
        reference = reference_of(source)
        usable = checked(auth, reference.registry) if auth and reference else None
        auth = usable or await self._of_the_node(source)
        found = await self._found(source, auth)
        grant = Grant(uri=found.source, sealed=await self._sealed(usable, found.id, namespace))
        if not name.startswith(PREFIX):
            found = replace(found, digests=(*(without_form(digest) for digest in found.digests), *found.digests))
        if any(fnmatchcase(name, pattern) for pattern in settings.pinned):
            found = replace(found, pinned=True)
        found = replace(found, signature=await self._signature(found, auth, settings))
        record = partial(self._record, name, source, found, {namespace: grant})
        return await self._tasks.finish(f"record {name}", record)

    def auth_in(self, docker_config: bytes, name: ImageRef) -> RegistryAuth | None:
        reference = reference_of(source_of(name, plain=True, singularity=self._singularity()))
        return of_docker_config(docker_config, reference.registry, "the docker config") if reference else None

    def find(self, name: str) -> Image | None:
        """What was pulled by a name of ours is not found by a plain one: it may be another runtime's, too."""
        for record in self._records.values():
            if name in record.sources or name in record.image.digests:
                return record.image
        if (by_id := self._by_id(name)) is not None:
            return by_id
        try:
            source = source_of(name, plain=True, singularity=self._singularity())
        except InvalidArgument:
            return None
        reference = reference_of(source)
        if reference is not None and reference.digest:
            is_ours, name = name.startswith(PREFIX), digest_name(source, reference.digest)
            name = name if is_ours else without_form(name)
            return next((one.image for one in self._records.values() if name in one.image.digests), None)
        return self._of_source(source, plain=not name.startswith(PREFIX))

    def images(self) -> Sequence[Image]:
        return tuple(record.image for record in self._records.values())

    async def remove(self, name: str) -> Image | None:
        async def forget() -> Image | None:
            async with self._writing:
                image = self.find(name)
                if image is not None:
                    await self._store.delete(image.id)
                    await self._store.delete(f"{_USED}{image.id}")
                    del self._records[image.id]
                    self._used_at_ns.pop(image.id, None)
                    await (await self._files()).remove(image.id)
                    await self.look()
                    _log.info("image forgotten", source=image.source, image_id=image.id)
                return image

        return await self._tasks.finish(f"forget {name}", forget)

    async def note_use(self, image_id: ImageId) -> None:
        async with self._writing:
            if image_id in self._records:
                await self._note_use(image_id)

    async def surplus(self, in_use: Container[str], on_node: Mapping[ImageId, int]) -> Sequence[Image]:
        if not self._records:
            return ()
        settings = await self._settings()
        young_ns = time.time_ns() - int(settings.spare_s * 1e9)

        def stays(image: Image) -> bool:
            return image.pinned or image.id in in_use or self._used_at_ns.get(image.id, 0) > young_ns

        images = sorted(self.images(), key=lambda image: self._used_at_ns.get(image.id, 0))
        return surplus(images, on_node, stays, limit_count=settings.limit_count, limit_bytes=settings.limit_bytes)

    async def build_source(self, image: Image, namespace: str) -> BuildSource:
        record = self._records.get(image.id)
        grant = record.grants.get(namespace) if record else None
        uri = grant.uri if grant else image.source
        reference = reference_of(uri)
        if reference is None:
            return BuildSource(uri=uri)
        if grant and grant.sealed:
            opened = await asyncio.to_thread(self._context.secrets.open, grant.sealed, _bound(image.id, namespace))
            auth = checked(RegistryAuth(**json.loads(opened)), reference.registry)
        else:
            auth = await self._of_the_node(uri)
        registry = (await self._settings()).of_registry(reference.registry)
        certificates = await asyncio.to_thread(_read, registry.ca_file, "ca_file") if registry.ca_file else b""
        return BuildSource(
            uri=uri,
            registry=reference.registry,
            auth=auth,
            plain_http=registry.plain_http,
            ca_certificates=certificates,
        )

    async def signature_rule(self, image: Image) -> SignatureRule | None:
        settings = await self._settings()
        if settings.signatures == "off":
            return None
        required, known = settings.signatures == "enforce", self._records.get(image.id)
        if image.scheme == "docker":
            if required and not is_verified(known.image.signature if known else ""):
                raise PermissionDenied(f"image {image.source}: {UNVERIFIED}: pull it again")
            return None
        if image.scheme == LOCAL_DEFINITION or not settings.signature_keys:
            if required:
                missing = "a definition has no signature" if settings.signature_keys else NO_KEYS
                raise PermissionDenied(f"image {image.source}: images.signatures: enforce, and {missing}")
            return None
        keys = await asyncio.to_thread(_read, settings.signature_keys, "signature_keys")
        return SignatureRule(keys=keys, required=required)

    async def _signature(self, image: Image, auth: RegistryAuth | None, settings: "Settings") -> str:
        """What is found out about it at a pull. Raises PermissionDenied if that is not enough, and has to be."""
        if settings.signatures == "off" or image.scheme != "docker":
            return ""
        reference = reference_of(image.source)
        registry = settings.of_registry(reference.registry) if reference else None
        words = await verified(
            reference=str(reference) if reference and reference.digest else "",
            key=settings.cosign_key,
            arguments=settings.cosign_arguments,
            docker_config=auth.docker_config(reference.registry) if auth and reference else b"",
            ca_file=registry.ca_file if registry else "",
            plain_http=registry.plain_http if registry else False,
        )
        if is_verified(words):
            _log.info("an image is signed", source=image.source, signature=words)
        elif settings.signatures == "enforce":
            raise PermissionDenied(f"image {image.source}: images.signatures: enforce, and it is {words}")
        else:
            _log.warning("an image is not known to be signed", source=image.source, signature=words)
        return words

    async def file_suffix(self, runtime: str) -> str:
        return await asyncio.to_thread((await self._files()).suffix, runtime)

    async def file(self, image: Image, namespace: str, runtime: str) -> ImageFile:
        files = await self._files()
        known = await files.known(image, await self.file_suffix(runtime))
        if known is not None:
            self._check_use(image, namespace, builder=known[1])
            return known[0]
        source, record = await self.build_source(image, namespace), self._records.get(image.id)
        grant = record.grants.get(namespace) if record else None
        file = await files.build(image, runtime, source, namespace if grant and grant.sealed else NOBODYS)
        await self.look()
        return file

    def stored(self) -> Stored | None:
        return self._stored if self._stored.sizes_bytes else None

    async def look(self) -> None:
        """What of `stored` is on the disk now."""
        async with self._looking:  # the last one to begin is the last one to know
            self._stored = await asyncio.to_thread(stored_in, self._directory)

    async def _files(self) -> NodeFiles:
        if self._node_files is None:
            settings = await self._settings()
            if self._node_files is None:
                context = self._context
                self._node_files = NodeFiles(context.image_builders, self._tasks, settings, context.counts)
                self._tasks.start(
                    "remove files of images that are gone", partial(self._node_files.remove_others, self._records)
                )
        return self._node_files

    def _check_use(self, image: Image, namespace: str, *, builder: str) -> None:
        """An image that one namespace's credentials built is for whoever has pulled it with their own, or needs none.

        What a registry said of a pull is known by the digest that it told.
        """
        record = self._records.get(image.id)
        grants = record.grants if record else {}
        proved = {name: grant for name, grant in grants.items() if "@" in grant.uri}
        if builder in {NOBODYS, namespace} or namespace in proved or not all(one.sealed for one in proved.values()):
            return
        raise PermissionDenied(
            f"image {image.source}: it was pulled with another namespace's credentials: "
            f"pull it for {namespace!r} too, with imagePullSecrets and imagePullPolicy: Always"
        )

    # -- what a name means ---------------------------------------------------------------------------------------

    async def _found(self, source: str, auth: RegistryAuth | None) -> Image:
        """What the source means now. Whoever wants to know the same at the same time, as the same, asks once."""
        key = (source, auth)
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = self._tasks.outcome(f"resolve {source}", partial(self._resolve, source, auth))
            pull.add_done_callback(lambda _: self._pulls.pop(key, None))
        return await asyncio.shield(pull)

    async def _resolve(self, source: str, auth: RegistryAuth | None) -> Image:
        settings, reference = await self._settings(), reference_of(source)
        if reference is None or settings.resolve == "never":
            return image_of(source, None)
        try:
            return await self._ask(source, reference, auth)
        except Unavailable as error:
            if settings.resolve == "always":
                raise
            known = self._of_source(source)
            _log.warning(
                "the image's registry cannot be asked from here: the cluster will find out what the name means",
                source=source,
                error=error,
                known=known.id if known else "no",
            )
            return in_repository(known, source) if known else image_of(source, None)

    async def _ask(self, source: str, reference: Reference, auth: RegistryAuth | None) -> Image:
        settings, now = await self._settings(), asyncio.get_running_loop().time()
        self._silent = {registry: until for registry, until in self._silent.items() if until > now}
        if settings.resolve == "auto" and reference.registry in self._silent:
            raise Unavailable(f"{reference.registry} did not answer a moment ago")
        known = self._known(source, settings.platform)
        try:
            found = await self._asking.find(await self._question(source, reference, auth, tuple(known)))
        except Silent:
            self._silent[reference.registry] = now + SILENCE_S
            raise
        return in_repository(known[found.digest], source) if isinstance(found, Known) else image_of(source, found)

    def _known(self, source: str, platform: str) -> dict[str, Image]:
        """Images of the same repository, by the digests that they have there."""
        repository = digest_name(source, "")
        return {
            name.removeprefix(repository): record.image
            for record in self._records.values()
            for name in record.image.digests
            if name.startswith(repository) and record.platform == platform
        }

    async def _question(
        self, source: str, reference: Reference, auth: RegistryAuth | None, known: tuple[str, ...]
    ) -> Question:
        settings = await self._settings()
        registry, auth = settings.of_registry(reference.registry), auth or RegistryAuth()
        certificates = await asyncio.to_thread(_read, registry.ca_file, "ca_file") if registry.ca_file else b""
        return Question(
            registry=reference.registry,
            path=reference.path,
            reference=reference.digest or reference.tag,
            platform=settings.platform,
            timeout_s=settings.resolve_timeout_s,
            is_image=source.startswith("docker:"),
            known=known,
            plain_http=registry.plain_http,
            ca_certificates=certificates.decode("ascii", "replace"),
            username=auth.username,
            password=auth.password,
            identity_token=auth.identity_token,
            registry_token=auth.registry_token,
        )

    async def _record(self, name: ImageRef, source: str, found: Image, grants: Mapping[str, Grant]) -> Image:
        """Another image's name first loses it: after a crash in between it is unknown, and the kubelet pulls again."""
        async with self._writing:
            for other in list(self._records.values()):
                if other.image.id != found.id and source in other.sources.values():
                    await self._put(without_source(other, source))
                    _log.info("a tag has moved", source=source, from_id=other.image.id, to_id=found.id)
            record = self._records.get(found.id) or Record(image=found, number=self._next, sources={})
            after = with_name(record, found, name, source)
            platform = (await self._settings()).platform
            after = replace(after, platform=platform, grants={**after.grants, **grants})
            if after != record:
                await self._put(after)
                self._next = max(self._next, after.number + 1)
                _log.info("image recorded", image=name, source=after.image.source, image_id=after.image.id)
            await self._note_use(found.id)
            return after.image

    async def _put(self, record: Record) -> None:
        await self._store.put(record.image.id, to_row(record))
        self._records[record.image.id] = record

    async def _note_use(self, image_id: ImageId) -> None:
        """On a full disk in memory alone: an image goes a little too early, but no pod waits."""
        self._used_at_ns[image_id] = time.time_ns()
        try:
            await self._store.put(f"{_USED}{image_id}", str(self._used_at_ns[image_id]).encode())
        except MulticriError as error:
            _log.warning("the use of an image is not kept", image_id=image_id, error=error)

    def _of_source(self, source: str, *, plain: bool = False) -> Image | None:
        """plain: only if one of the names that mean it is."""
        for record in self._records.values():
            names = [name for name, meant in record.sources.items() if meant == source]
            if any(not (plain and name.startswith(PREFIX)) for name in names):
                return record.image
        return None

    def _by_id(self, name: str) -> Image | None:
        digits = name.removeprefix("sha256:")
        if not _HEX.fullmatch(digits):
            return None
        matches = [one.image for key, one in self._records.items() if key.startswith(f"sha256:{digits}")]
        return matches[0] if len(matches) == 1 else None

    # -- credentials and settings --------------------------------------------------------------------------------

    async def _sealed(self, auth: RegistryAuth | None, image: ImageId, namespace: str) -> bytes:
        if auth is None:
            return b""
        text = json.dumps(asdict(auth)).encode()
        return await asyncio.to_thread(self._context.secrets.seal, text, _bound(image, namespace))

    async def _of_the_node(self, source: str) -> RegistryAuth | None:
        """The credentials that an admin has for everybody."""
        settings, reference = await self._settings(), reference_of(source)
        if reference is None or not settings.docker_config:
            return None
        content = await asyncio.to_thread(_read, settings.docker_config, "docker_config", secret=True)
        return of_docker_config(content, reference.registry, f"images.docker_config: {settings.docker_config}")

    async def _settings(self) -> "Settings":
        """They were checked when the daemon started; what reads them is imported with the first pull."""
        if self._checked is None:
            self._checked = await asyncio.to_thread(_settings_of, self._context.settings)
        return self._checked

    def _singularity(self) -> SingularityScheme:
        wanted = self._context.settings.get("singularity_repository")
        return "library" if wanted == "library" else "oras" if wanted == "oras" else "shub"


def _settings_of(section: Mapping[str, object]) -> "Settings":
    from multicri_images.settings import read_settings  # noqa: PLC0415  (pydantic, for nodes that pull)

    return read_settings(section)


def _bound(image: ImageId, namespace: str) -> str:
    return f"credentials of {image} in {namespace!r}"


def _read(path: str, setting: str, *, secret: bool = False) -> bytes:
    """Blocks. Raises FailedPrecondition naming the setting."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
        is_open = secret and Path(path).stat().st_mode & 0o077
    except OSError as error:
        raise FailedPrecondition(f"images.{setting}: {path} cannot be read: {error.strerror}") from error
    if is_open:
        raise FailedPrecondition(f"images.{setting}: {path} is open to others: chmod 0600")
    if len(content) > LARGEST_FILE_BYTES:
        raise FailedPrecondition(f"images.{setting}: {path} is larger than {LARGEST_FILE_BYTES} bytes")
    return content
