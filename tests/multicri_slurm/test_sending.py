"""Images that the node builds, brought to a cluster by the directory that both share."""

import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from contract.bench import MemoryStore, XorSecrets
from multicri_images.builders import CHARLIECLOUD
from multicri_images.pool import pool
from slurm_bench import Bench, everything

from multicri_proxy.api.adapter import ImagesContext, OutputStream, Phase
from multicri_proxy.api.ids import ImageRef
from multicri_proxy.api.image import ImagePool

pytestmark = [pytest.mark.testbed, pytest.mark.parametrize("bench", ["rest"], indirect=True)]


@pytest.fixture
async def images(bench: Bench) -> AsyncIterator[ImagePool]:
    registry, directory = bench.bed.registry, bench.bed.settings.run / "images-of-the-node"
    settings = {
        "directory": str(directory),
        "registries": {registry.address: {"ca_file": str(registry.authority.certificate)}},
    }
    context = ImagesContext(
        settings=settings, store=MemoryStore(), secrets=XorSecrets(), image_builders=(CHARLIECLOUD,)
    )
    async with pool(context) as images:
        yield images
    subprocess.run(["rm", "-rf", directory], check=True)


@pytest.mark.parametrize(
    ("user", "builder", "suffix"),
    [
        ("alice", "auto", ".squashfs"),
        ("bob", "auto", ""),
        ("bob", "charliecloud-squashfs", ".squashfs"),
    ],
)
async def test_an_image_of_the_node_runs_where_nobody_logs_in(
    bench: Bench, images: ImagePool, user: str, builder: str, suffix: str
) -> None:
    bench.images = images
    bench.settings["image_remote_mount"] = "images-sent"
    home = bench.bed.cluster.user(user).home
    spec = bench.spec(args=["one"], user=user)
    spec = replace(
        spec, image=await images.pull(ImageRef(f"multicri/docker.{bench.bed.registry.address}/test/tool:1.0"))
    )
    try:
        async with bench.adapter(build_in_cluster=False, image_builder=builder) as slurm:
            await slurm.create_container(spec)
            assert [Path(path).suffix for path in home.glob("images-sent/[0-9a-f]*")] == [suffix]
            assert list(home.glob("images-sent/.*.sending.*")) == []
            await slurm.start_container(spec.id)
            assert (await bench.report(spec.id, Phase.EXITED)).exit_code == 0
            said = await everything(slurm, spec.id, OutputStream.STDOUT)
            assert said == b"in /var/tool, TOOL=of the image\n<one>\n"
            await slurm.remove_container(spec.id)
    finally:
        bench.bed.cluster.run("login", ["rm", "-rf", f"/home/{user}/images-sent"], check=True)
