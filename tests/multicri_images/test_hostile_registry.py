"""Registries that a pod's author runs: what they say is bounded, checked, and never given credentials for another."""

import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from multicri_images.asking import Asking
from multicri_images.builders import APPTAINER
from multicri_images.pool import pool
from multicri_images.question import Finding, Question
from pool_bench import MemoryStore

from multicri_proxy.api.adapter import ImagesContext
from multicri_proxy.api.errors import FailedPrecondition, NotFound
from multicri_proxy.api.ids import ImageRef
from multicri_proxy.api.image import ImagePool, RegistryAuth
from multicri_proxy.secrets import SealedSecrets

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
AUTH = RegistryAuth(username="me", password="secret-word")


class Registry:
    """answers: by path below /v2/acme/tool/, status, media type, headers and body. heard: paths and Authorization."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.heard: list[tuple[str, str]] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.heard.append((f"{self.command} {self.path}", self.headers.get("Authorization", "")))
                path = self.path.removeprefix("/v2/acme/tool/")
                status, headers, body = registry.answers.get(path, (404, {}, b""))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815  (its name there)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name there)
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.name = f"127.0.0.1:{self.server.server_port}"

    def put(self, path: str, document: object, media_type: str = MANIFEST) -> str:
        """Returns its digest, under which it is there too, in the right place for its kind."""
        body = json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
        for name in (path, f"{path.partition('/')[0]}/{digest}"):
            self.answers[name] = (200, headers, body)
        return digest

    def put_image(self, tag: str = "1", architecture: str = "amd64", **config: object) -> str:
        about = {"os": "linux", "architecture": architecture, "config": config}
        digest = self.put("blobs/config", about, "application/json")
        return self.put(f"manifests/{tag}", {"config": {"digest": digest}, "layers": [{"size": 5}, {"size": 6}]})


@contextmanager
def serving() -> Iterator[Registry]:
    registry = Registry()
    thread = threading.Thread(target=registry.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield registry
    finally:
        registry.server.shutdown()
        thread.join()
        registry.server.server_close()


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as registry:
        yield registry


@pytest.fixture
def other() -> Iterator[Registry]:
    with serving() as registry:
        yield registry


@asynccontextmanager
async def pool_of(*registries: Registry, **settings: object) -> AsyncIterator[ImagePool]:
    plain = {registry.name: {"plain_http": True} for registry in registries}
    context = ImagesContext(
        settings={"registries": plain, "resolve": "always", **settings},
        store=MemoryStore(),
        secrets=SealedSecrets(bytes(32)),
        image_builders=(APPTAINER,),
    )
    async with pool(context) as images:
        yield images


def tool_at(registry: Registry, tag: str = "1") -> ImageRef:
    return ImageRef(f"multicri/docker-repository.{registry.name}/acme/tool:{tag}")


async def test_of_an_index_the_platform_of_the_cluster_is_taken(registry: Registry) -> None:
    entries = [
        {"digest": registry.put_image("a", "arm64", User="7"), "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": registry.put_image("b", "amd64", User="8"), "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": "sha256:" + "0" * 64, "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    index = registry.put("manifests/1", {"manifests": entries}, INDEX)
    for platform, user in (("linux/amd64", "8"), ("linux/arm64", "7")):
        async with pool_of(registry, platform=platform) as images:
            image = await images.pull(tool_at(registry))
            assert image.config is not None
            assert (image.config.user, image.size_bytes) == (user, 11)
            assert image.source == f"docker://{registry.name}/acme/tool@{index}"
    async with pool_of(registry, platform="linux/riscv64") as images:
        with pytest.raises(NotFound, match="it has linux/amd64, linux/arm64, unknown/unknown"):
            await images.pull(tool_at(registry))


async def test_a_tag_that_has_not_moved_costs_one_question_for_its_digest(registry: Registry) -> None:
    registry.put_image()
    async with pool_of(registry) as images:
        first = await images.pull(tool_at(registry))
        registry.heard.clear()
        assert await images.pull(tool_at(registry)) == first
        assert [path for path, _ in registry.heard] == ["HEAD /v2/acme/tool/manifests/1"]
        registry.put_image(User="1")
        assert (await images.pull(tool_at(registry))).id != first.id


def poisoned_manifest(registry: Registry) -> None:
    digest = registry.put_image()
    registry.put(
        "manifests/1", {"manifests": [{"digest": digest, "platform": {"os": "linux", "architecture": "amd64"}}]}, INDEX
    )
    registry.answers[f"manifests/{digest}"] = (200, {"Content-Type": MANIFEST}, b'{"layers": []}')


def poisoned_config(registry: Registry) -> None:
    digest = registry.put("blobs/config", {"config": {"User": "good"}})
    registry.put("manifests/1", {"config": {"digest": digest}, "layers": []})
    registry.answers[f"blobs/{digest}"] = (200, {}, b'{"config": {"User": "evil"}}')


def endless_manifest(registry: Registry) -> None:
    registry.answers["manifests/1"] = (200, {"Content-Type": MANIFEST}, b" " * (5 * 1024 * 1024))


def deep_manifest(registry: Registry) -> None:
    registry.answers["manifests/1"] = (200, {"Content-Type": MANIFEST}, b"[" * 1_000_000)


def words_that_are_none(registry: Registry) -> None:
    registry.put_image(Env={"PATH": "/"})


def negative_layers(registry: Registry) -> None:
    digest = registry.put("blobs/config", {})
    registry.put("manifests/1", {"config": {"digest": digest}, "layers": [{"size": -5}]})


def path_as_a_digest(registry: Registry) -> None:
    registry.put("manifests/1", {"config": {"digest": "../../../v2/other"}, "layers": []})


def a_page(registry: Registry) -> None:
    registry.answers["manifests/1"] = (200, {"Content-Type": "text/html"}, b"{}")


def a_file(registry: Registry) -> None:
    registry.answers["manifests/1"] = (302, {"Location": "file:///etc/passwd"}, b"")


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (poisoned_manifest, "sends something else than sha256:"),
        (poisoned_config, "sends something else than sha256:"),
        (endless_manifest, "larger than 4194304 bytes"),
        (deep_manifest, "is no JSON"),
        (words_that_are_none, "its Env is no list of words"),
        (negative_layers, "layers without a size"),
        (path_as_a_digest, "names no configuration"),
        (a_page, "it is no image but 'text/html'"),
        (a_file, "to where we do not go"),
    ],
)
async def test_what_is_no_image_is_refused_with_the_reason(
    registry: Registry, poison: Callable[[Registry], None], reason: str
) -> None:
    poison(registry)
    async with pool_of(registry, resolve="auto") as images:
        with pytest.raises(FailedPrecondition, match=reason):
            await images.pull(tool_at(registry))
        assert images.images() == ()


async def test_an_artifact_is_known_by_its_manifest_for_it_need_not_have_a_configuration(registry: Registry) -> None:
    """As a SIF file that was pushed by ``apptainer push oras://``."""
    digest = registry.put("manifests/1", {"config": {}, "layers": [{"size": 7}]})
    question = Question(
        registry=registry.name,
        path="acme/tool",
        reference="1",
        platform="linux/amd64",
        timeout_s=5,
        is_image=False,
        plain_http=True,
    )
    assert await Asking().find(question) == Finding(digest=digest, content=digest, size_bytes=7)


async def test_a_redirect_takes_no_credentials_along_and_goes_on_only_so_often(
    registry: Registry, other: Registry
) -> None:
    registry.put_image()
    other.answers = dict(registry.answers)
    config = next(path for path in registry.answers if path.startswith("blobs/sha256"))
    place = f"http://{other.name}/v2/acme/tool/{config}"
    registry.answers[config] = (307, {"Location": place}, b"")
    registry.answers["manifests/2"] = (302, {"Location": "/v2/acme/tool/manifests/2"}, b"")
    async with pool_of(registry) as images:
        auth = RegistryAuth(registry_token="a-token")
        assert (await images.pull(tool_at(registry), auth=auth)).config is not None
        assert {said for _, said in registry.heard} == {"Bearer a-token"}
        assert [said for _, said in other.heard] == [""]
        with pytest.raises(FailedPrecondition, match="in circles"):
            await images.pull(tool_at(registry, "2"))


async def test_credentials_stay_with_the_registry_that_they_are_for_though_another_has_the_image_too(
    registry: Registry, other: Registry
) -> None:
    registry.put_image()
    other.answers = dict(registry.answers)
    async with pool_of(registry, other) as images:
        await images.pull(tool_at(registry), auth=AUTH, namespace="physics")
        await images.pull(tool_at(other))
        image = await images.pull(tool_at(registry), auth=AUTH, namespace="physics")
        assert len(images.images()) == 1
        source = await images.build_source(image, "physics")
        assert (source.registry, source.auth is not None) == (registry.name, True)
        assert source.uri.startswith(f"docker://{registry.name}/")
        anonymous = await images.build_source(image, "")
        assert (anonymous.registry, anonymous.auth) == (other.name, None)
