"""The pool of images that were pulled."""

import hashlib
import json
from contextlib import AbstractAsyncContextManager

import pytest
from multicri_images.builders import CHARLIECLOUD
from multicri_images.pool import pool
from pool_bench import MemoryStore

from multicri_proxy.api.adapter import ImagesContext
from multicri_proxy.api.counts import ImageCounts
from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.ids import ImageRef
from multicri_proxy.api.image import ImagePool
from multicri_proxy.secrets import SealedSecrets

PERL = ImageRef("multicri/docker-repository.perl:5")
PERL_TOO = ImageRef("multicri/docker.perl.img:5")
TOOL = ImageRef("multicri/docker.acme/tool")


def pool_of(store: MemoryStore, **settings: object) -> AbstractAsyncContextManager[ImagePool]:
    """A pool that asks no registry, over a builder of docker:// alone."""
    secrets = SealedSecrets(bytes(32))
    settings = {"resolve": "never", **settings}
    return pool(ImagesContext(settings=settings, store=store, secrets=secrets, image_builders=(CHARLIECLOUD,)))


async def test_two_names_of_one_source_are_one_image() -> None:
    async with pool_of(MemoryStore()) as images:
        first = await images.pull(PERL)
        second = await images.pull(PERL_TOO)
        assert second.id == first.id
        assert second.names == (PERL, PERL_TOO)
        assert await images.pull(PERL) == second
        assert list(images.images()) == [second]
        assert images.find(PERL) == images.find(PERL_TOO) == second


async def test_a_restart_keeps_images_names_and_order() -> None:
    store = MemoryStore()
    async with pool_of(store) as images:
        for name in (TOOL, PERL, PERL_TOO):
            await images.pull(name)
        async with pool_of(store) as again:
            assert list(again.images()) == list(images.images())


async def test_an_id_is_known_in_full_bare_and_shortened() -> None:
    async with pool_of(MemoryStore()) as images:
        image = await images.pull(PERL)
        digits = image.id.removeprefix("sha256:")
        for name in (image.id, digits, digits[:13], f"sha256:{digits[:12]}"):
            assert images.owns(name)
            assert images.find(name) == image
        for name in (digits[:11], digits.upper(), f"sha512:{digits}", "0" * 64, "perl:5", "", "sha256:"):
            assert not images.owns(name)
            assert images.find(name) is None


async def test_names_of_ours_are_owned_before_they_are_pulled() -> None:
    async with pool_of(MemoryStore()) as images:
        assert images.owns("multicri/whatever")
        assert not images.owns("multicri")
        assert not images.owns("docker.io/multicri/x")
        assert images.find("multicri/whatever") is None
        assert images.find(PERL) is None


async def test_removing_forgets_all_names_and_an_unknown_one_is_no_error() -> None:
    store = MemoryStore()
    async with pool_of(store) as images:
        image = await images.pull(PERL)
        await images.pull(PERL_TOO)
        await images.remove(image.id[:20])
        await images.remove(PERL)
        assert store.rows == {}
        assert images.find(PERL_TOO) is None
        assert not images.owns(image.id)


async def test_a_name_that_is_none_is_refused_and_not_recorded() -> None:
    store = MemoryStore()
    async with pool_of(store) as images:
        with pytest.raises(InvalidArgument):
            await images.pull(ImageRef("multicri/local-def-file.x"))
        assert store.rows == {}


async def test_images_of_before_registries_were_asked_keep_their_ids() -> None:
    store = MemoryStore()
    source = "docker://docker.io/library/perl:5"
    digits = hashlib.sha256(source.encode()).hexdigest()
    row = {"source": source, "names": [PERL], "size_bytes": 0, "number": 3}
    store.rows[f"sha256:{digits}"] = json.dumps(row).encode()
    async with pool_of(store) as images:
        [image] = images.images()
        assert (image.id, image.source, image.names) == (f"sha256:{digits}", source, (PERL,))
        assert images.find(PERL_TOO) == image == await images.pull(PERL)


async def test_which_image_was_not_used_for_longest_is_known_after_a_restart() -> None:
    store, settings = MemoryStore(), {"limit_count": 1, "spare_s": 0}
    async with pool_of(store, **settings) as images:
        tool, perl = await images.pull(TOOL), await images.pull(PERL)
        assert await images.surplus((), {}) == [tool]
        await images.note_use(tool.id)
    async with pool_of(store, **settings) as again:
        assert await again.surplus((), {}) == [perl]
        assert await again.surplus({perl.id}, {}) == [tool]
        assert await again.surplus({perl.id, tool.id}, {}) == []
        await again.remove(perl.id)
        assert await again.surplus((), {}) == []
    assert not any(perl.id in key for key in store.rows)


async def test_what_is_pinned_or_was_used_a_moment_ago_is_no_surplus() -> None:
    async with pool_of(MemoryStore(), limit_count=1, spare_s=0, pinned=[TOOL]) as images:
        await images.pull(TOOL)
        perl = await images.pull(PERL)
        assert await images.surplus((), {}) == [perl]
    async with pool_of(MemoryStore(), limit_count=1) as images:
        for name in (TOOL, PERL):
            await images.pull(name)
        assert await images.surplus((), {}) == []


async def test_pulls_are_counted_by_source_and_result() -> None:
    counts = ImageCounts()
    context = ImagesContext(
        settings={"resolve": "never"},
        store=MemoryStore(),
        secrets=SealedSecrets(bytes(32)),
        image_builders=(CHARLIECLOUD,),
        counts=counts,
    )
    async with pool(context) as images:
        await images.pull(PERL)
        await images.pull(PERL_TOO)
        for name in ("multicri/local-def-file.x", "multicri/nonsense"):
            with pytest.raises(InvalidArgument):
                await images.pull(ImageRef(name))
    assert counts.pulls == {("docker", "ok"): 2, ("local-def-file", "failed"): 1, ("unknown", "failed"): 1}


async def test_a_plain_name_finds_what_was_pulled_by_one_in_each_of_its_forms() -> None:
    async with pool_of(MemoryStore()) as images:
        await images.pull(PERL)
        assert images.find("perl:5") is None
        pulled = await images.pull(ImageRef("perl:5"), plain=True)
        for name in ("perl:5", "docker.io/library/perl:5", "docker.io/perl:5"):
            assert images.find(name) == pulled
        assert images.find("perl") is None
