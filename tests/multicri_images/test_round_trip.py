"""Every form of an image's name, through CRI and the real pool: by each what was pulled is found, listed, removed."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from multicri_images.builders import APPTAINER
from multicri_images.pool import pool
from pool_bench import MemoryStore
from runtime.doubles import IMAGE, Node

from multicri_proxy.api.adapter import ImagesContext
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.service import Runtime
from multicri_proxy.secrets import SealedSecrets

WORD = st.from_regex(r"[a-z0-9]+(?:(?:\.|_|__|-{1,2})[a-z0-9]+){0,2}", fullmatch=True).filter(
    lambda word: len(word) < 20
)
PATH = (
    st.lists(WORD, min_size=1, max_size=3)
    .filter(lambda path: "." not in path[0] and path[0] != "io")  # a registry; and multicri/docker.io/ is a slip
    .map("/".join)
)
REGISTRY = st.sampled_from(["ghcr.io/", "localhost:5000/", "Intern.Example:8443/", "10.0.0.1:5000/", "[fd00::1]:5000/"])
TAG = st.one_of(st.just(""), st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))
DIGEST = st.one_of(st.just(""), st.from_regex(r"@sha256:[0-9a-f]{64}", fullmatch=True))
DOCKER_FORMS = ("multicri/docker-repository.", "multicri/docker.")


@asynccontextmanager
async def served() -> AsyncIterator[Runtime]:
    context = ImagesContext(
        settings={"resolve": "never", "singularity_repository": "oras"},
        store=MemoryStore(),
        secrets=SealedSecrets(bytes(32)),
        image_builders=(APPTAINER,),
    )
    with tempfile.TemporaryDirectory() as directory:
        node = Node(Path(directory))
        async with pool(context) as node.images, node.running() as runtime:  # type: ignore[assignment]
            await runtime.remove_image(cri.RemoveImageRequest(image=cri.ImageSpec(image=IMAGE)))
            yield runtime


async def pulled(runtime: Runtime, name: str, handler: str = "") -> str:
    request = cri.PullImageRequest(image=cri.ImageSpec(image=name, runtime_handler=handler))
    return (await runtime.pull_image(request)).image_ref


async def listed(runtime: Runtime, name: str = "") -> list[cri.Image]:
    wanted = cri.ImageFilter(image=cri.ImageSpec(image=name)) if name else cri.ImageFilter()
    return list((await runtime.list_images(cri.ListImagesRequest(filter=wanted))).images)


async def check(runtime: Runtime, names: list[str]) -> None:
    """Names of one image: pull by each, find it by all that CRI tells of it, remove it by its id."""
    (image_id,) = {await pulled(runtime, name) for name in names}
    (image,) = await listed(runtime)
    assert image.id == image_id
    assert image.id.startswith("sha256:")
    assert image.size > 0
    assert sorted((*image.repo_tags, *image.repo_digests)) == sorted(set(names))
    assert not any("@" in tag for tag in image.repo_tags)
    digits = image_id.removeprefix("sha256:")
    for form in (*names, *image.repo_tags, *image.repo_digests, image_id, digits, digits[:12], image_id[:20]):
        assert runtime.owns_image(form), form
        status = await runtime.image_status(cri.ImageStatusRequest(image=cri.ImageSpec(image=form)))
        assert status.image == image, form
        assert await listed(runtime, form) == [image], form
    await runtime.remove_image(cri.RemoveImageRequest(image=cri.ImageSpec(image=image_id)))
    assert await listed(runtime) == []
    for form in (*names, image_id, digits):
        status = await runtime.image_status(cri.ImageStatusRequest(image=cri.ImageSpec(image=form)))
        assert not status.HasField("image"), form
    await runtime.remove_image(cri.RemoveImageRequest(image=cri.ImageSpec(image=image_id)))


async def test_an_image_of_a_registry() -> None:
    loop = asyncio.get_running_loop()
    async with served() as runtime:

        @settings(max_examples=60)
        @given(registry=st.one_of(st.just(""), REGISTRY), path=PATH, tag=TAG, digest=DIGEST)
        def each(registry: str, path: str, tag: str, digest: str) -> None:
            reference = f"{registry}{path}{tag}{digest}"
            names = [f"{form}{reference}" for form in DOCKER_FORMS]
            if not tag and not digest:
                names.append(f"{names[0]}:latest")  # as the kubelet completes it
            asyncio.run_coroutine_threadsafe(check(runtime, names), loop).result()

        await asyncio.to_thread(each)


async def test_an_image_of_a_singularity_repository() -> None:
    loop = asyncio.get_running_loop()
    async with served() as runtime:

        @settings(max_examples=20)
        @given(registry=REGISTRY, path=PATH, tag=TAG)
        def each(registry: str, path: str, tag: str) -> None:
            name = f"multicri/singularity-repository.{registry}{path}{tag or ':latest'}"
            asyncio.run_coroutine_threadsafe(check(runtime, [name]), loop).result()

        await asyncio.to_thread(each)


async def test_multi_cris_own_examples_are_one_image() -> None:
    async with served() as runtime:
        await check(runtime, ["multicri/docker.perl.img:latest", "multicri/docker.perl:latest"])


async def test_a_mere_reference_is_the_same_image_if_its_handler_is_ours() -> None:
    async with served() as runtime:
        image_id = await pulled(runtime, "multicri/docker-repository.perl:5")
        assert await pulled(runtime, "perl:5", "multicri") == image_id
        (image,) = await listed(runtime)
        assert list(image.repo_tags) == ["multicri/docker-repository.perl:5", "perl:5"]
        assert await listed(runtime, image_id) == [image]
        await runtime.remove_image(cri.RemoveImageRequest(image=cri.ImageSpec(image=image_id)))
        assert await listed(runtime) == []
