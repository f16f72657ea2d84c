"""What names mean, asked of a real registry."""

import asyncio
import json
import socket
from pathlib import Path

import pytest
from pool_bench import MemoryStore, OpenPool
from testbed import Testbed
from testbed.door import PASSWORD, USER, Door
from testbed.images import BUSYBOX_IMAGE, TOOL_IMAGE, ensure_layout
from testbed.images import Image as BedImage
from token_server import REFRESH_TOKEN, token_server

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unavailable
from multicri_proxy.api.ids import ImageRef
from multicri_proxy.api.image import RegistryAuth

pytestmark = pytest.mark.testbed

SCIENCE = RegistryAuth(username=USER, password=PASSWORD)


def name_at(registry: str, image: str = "test/tool:1.0", form: str = "docker-repository") -> ImageRef:
    return ImageRef(f"multicri/{form}.{registry}/{image}")


def pushed_manifest(bed: Testbed, image: BedImage) -> str:
    """The digest of the manifest, as the layout has it that was pushed."""
    index = json.loads((ensure_layout(bed.settings.cache) / "index.json").read_text())
    [digest] = [
        entry["digest"]
        for entry in index["manifests"]
        if entry["annotations"]["org.opencontainers.image.ref.name"] == image.tag
    ]
    return str(digest)


async def test_a_tag_becomes_a_digest_with_what_the_image_says_of_itself(bed: Testbed, open_pool: OpenPool) -> None:
    registry, digest = bed.registry.address, pushed_manifest(bed, TOOL_IMAGE)
    async with open_pool() as images:
        image = await images.pull(name_at(registry))
        assert image.source == f"docker://{registry}/test/tool@{digest}"
        assert image.digests == (f"multicri/docker-repository.{registry}/test/tool@{digest}",)
        assert image.size_bytes > 100_000
        assert image.config is not None
        assert (image.config.user, image.config.working_dir) == ("nobody", "/var/tool")
        assert image.config.cmd == ("a b", "$HOME")
        assert "TOOL=of the image" in image.config.env
        for name in (image.id, *image.names, *image.digests, name_at(registry, form="docker")):
            assert images.find(name) == image
        assert digest not in image.id, "containerd may have the same image, under that id"


async def test_two_repositories_with_one_image_are_one_image_with_two_tags(bed: Testbed, open_pool: OpenPool) -> None:
    again = "elsewhere/busybox:other"
    layout = ensure_layout(bed.settings.cache)
    bed.registry.push(layout, BUSYBOX_IMAGE, name=again)
    async with open_pool() as images:
        first = await images.pull(name_at(bed.registry.address, BUSYBOX_IMAGE.name))
        second = await images.pull(name_at(bed.registry.address, again))
        assert second.id == first.id
        assert second.names == (*first.names, name_at(bed.registry.address, again))
        assert len(second.digests) == 2
        assert images.images() == (second,)


async def test_a_tag_that_moved_is_another_image_and_the_old_one_keeps_its_digest(
    bed: Testbed, open_pool: OpenPool, store: MemoryStore
) -> None:
    layout, name = ensure_layout(bed.settings.cache), name_at(bed.registry.address, "moving/target:1")
    bed.registry.push(layout, BUSYBOX_IMAGE, name="moving/target:1")
    async with open_pool() as images:
        old = await images.pull(name)
        bed.registry.push(layout, TOOL_IMAGE, name="moving/target:1")
        new = await images.pull(name)
        assert new.id != old.id
        assert images.find(name) == new
        left = images.find(old.id)
        assert left is not None and (left.names, left.digests) == ((), old.digests)
    async with open_pool() as again:
        assert again.find(name) == new
        assert again.find(old.digests[0]) == left


async def test_an_image_without_the_tag_is_not_found(bed: Testbed, open_pool: OpenPool, store: MemoryStore) -> None:
    async with open_pool(resolve="auto") as images:
        for image in ("test/tool:none", "test/none:1"):
            with pytest.raises(NotFound, match="no such tag or repository"):
                await images.pull(name_at(bed.registry.address, image))
    assert store.rows == {}


async def test_a_password_opens_a_private_registry_and_a_wrong_one_does_not(
    private: Door, open_pool: OpenPool, store: MemoryStore
) -> None:
    name = name_at(private.name)
    async with open_pool() as images:
        with pytest.raises(PermissionDenied, match="it wants credentials"):
            await images.pull(name, namespace="physics")
        with pytest.raises(PermissionDenied, match="does not take these credentials") as refused:
            await images.pull(name, auth=RegistryAuth(username=USER, password="wr0ng"), namespace="physics")
        assert "wr0ng" not in str(refused.value)
        assert store.rows == {}
        image = await images.pull(name, auth=SCIENCE, namespace="physics")
    assert PASSWORD.encode() not in b"".join(store.rows.values())
    async with open_pool() as again:
        source = await again.build_source(image, "physics")
        assert (source.uri, source.registry) == (image.source, private.name)
        assert source.auth is not None and source.auth.password == PASSWORD
        assert source.ca_certificates.startswith(b"-----BEGIN")
        assert PASSWORD not in repr(source)
        assert (await again.build_source(image, "chemistry")).auth is None, "credentials are a namespace's own"


@pytest.mark.parametrize("auth", [SCIENCE, RegistryAuth(identity_token=REFRESH_TOKEN)], ids=["password", "refresh"])
async def test_a_registry_that_wants_a_token_gets_one(bed: Testbed, open_pool: OpenPool, auth: RegistryAuth) -> None:
    with (
        token_server(bed) as (url, scopes),
        Door(registry=bed.registry, port=5444, token_server=url).opened() as door,
    ):
        async with open_pool() as images:
            assert (await images.pull(name_at(door.name), auth=auth)).config is not None
            assert scopes == ["repository:test/tool:pull"]
            for nobody in (RegistryAuth(username=USER, password="x"), RegistryAuth(identity_token="x")):
                with pytest.raises(PermissionDenied, match="does not take these credentials"):
                    await images.pull(name_at(door.name), auth=nobody)


async def test_credentials_of_another_registry_are_not_sent(private: Door, open_pool: OpenPool) -> None:
    auth = RegistryAuth(username=USER, password=PASSWORD, server_address="https://ghcr.io/v1/")
    async with open_pool() as images:
        with pytest.raises(PermissionDenied, match="it wants credentials"):
            await images.pull(name_at(private.name), auth=auth)
        image = await images.pull(
            name_at(private.name),
            auth=RegistryAuth(username=USER, password=PASSWORD, server_address=f"https://{private.name}/v1/"),
        )
        assert image.config is not None


async def test_an_admins_docker_config_is_for_every_namespace(
    private: Door, open_pool: OpenPool, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_bytes(SCIENCE.docker_config(private.name))
    config.chmod(0o644)
    async with open_pool(docker_config=str(config)) as images:
        with pytest.raises(FailedPrecondition, match=r"images\.docker_config: .* is open to others: chmod 0600"):
            await images.pull(name_at(private.name))
        config.chmod(0o600)
        image = await images.pull(name_at(private.name))
        auth = (await images.build_source(image, "any")).auth
        assert auth is not None and (auth.username, auth.password) == (USER, PASSWORD)


async def test_plain_http_is_spoken_where_the_admin_says_so_and_nowhere_else(plain: Door, open_pool: OpenPool) -> None:
    async with open_pool() as images:
        image = await images.pull(name_at(plain.name))
        assert (await images.build_source(image, "")).plain_http
    async with open_pool(registries={}) as images:
        with pytest.raises(Unavailable, match=r"SSL|TLS"):
            await images.pull(name_at(plain.name))


async def test_a_certificate_of_an_unknown_authority_is_not_taken(bed: Testbed, open_pool: OpenPool) -> None:
    async with open_pool(registries={}) as images:
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await images.pull(name_at(bed.registry.address))


async def test_a_registry_that_is_silent_is_given_up_and_the_source_recorded_as_it_is_named(
    bed: Testbed, open_pool: OpenPool
) -> None:
    with socket.create_server((str(bed.settings.gateway), 5999)):  # nobody accepts
        name = name_at(f"{bed.registry.address}:5999")
        async with open_pool(resolve_timeout_s=0.5) as images:
            with pytest.raises(Unavailable, match=r"no answer within 0\.5 s"):
                await images.pull(name)
        async with open_pool(resolve_timeout_s=0.5, resolve="auto") as images:
            image = await images.pull(name)
            assert image.source == f"docker://{bed.registry.address}:5999/test/tool:1.0"
            assert (image.size_bytes, image.config, image.digests) == (0, None, ())
            assert images.find(image.id) == images.find(name) == image
            again = await images.pull(ImageRef(f"{name}-other"))
            assert again.source == f"docker://{bed.registry.address}:5999/test/tool:1.0-other"


async def test_a_registry_that_is_silent_now_does_not_change_what_a_name_meant(
    plain: Door, open_pool: OpenPool
) -> None:
    async with open_pool(resolve="auto") as images:
        image = await images.pull(name_at(plain.name))
        plain.daemon.stop()
        assert await images.pull(name_at(plain.name)) == image


async def test_an_image_of_another_platform_is_refused_by_name(bed: Testbed, open_pool: OpenPool) -> None:
    async with open_pool(platform="linux/s390x") as images:
        with pytest.raises(NotFound, match=r"is for linux/amd64, not for linux/s390x \(images.platform\)"):
            await images.pull(name_at(bed.registry.address))


async def test_pulls_of_one_image_at_a_time_are_one_question_that_a_cancelled_one_leaves_to_the_others(
    plain: Door, open_pool: OpenPool, store: MemoryStore
) -> None:
    async with open_pool() as images:
        pulls = [asyncio.create_task(images.pull(name_at(plain.name))) for _ in range(20)]
        await asyncio.sleep(0)
        while not _questions():
            await asyncio.sleep(0.005)
        assert _questions() == 1
        pulls[0].cancel()
        found = await asyncio.gather(*pulls, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert len(set(found[1:])) == 1
    assert len([key for key in store.rows if key.startswith("sha256:")]) == 1


async def test_a_pinned_image_is_told_as_one(bed: Testbed, open_pool: OpenPool) -> None:
    async with open_pool(pinned=["multicri/*/test/tool:*"]) as images:
        assert (await images.pull(name_at(bed.registry.address))).pinned
        assert not (await images.pull(name_at(bed.registry.address, BUSYBOX_IMAGE.name))).pinned


async def test_credentials_that_would_break_a_header_are_refused_by_name(private: Door, open_pool: OpenPool) -> None:
    async with open_pool() as images:
        with pytest.raises(InvalidArgument, match=r"auth\.password: must be one line"):
            await images.pull(name_at(private.name), auth=RegistryAuth(username="x", password="a\r\nb"))


def _questions() -> int:
    """How many processes of this one ask a registry."""
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                count += b"multicri_images.registry" in (entry / "cmdline").read_bytes()
            except OSError:
                continue
    return count
