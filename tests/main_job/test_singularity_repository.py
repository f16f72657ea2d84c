"""``multicri/singularity-repository.``, and multi-cri's own forms of names, from a real registry to a job's output."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import yaml
from kubelet import Kubelet, Proxy
from kubelet.client import read_log
from testbed import Testbed

from main_job.conftest import account_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path) -> AsyncIterator[Proxy]:
    ca = {"ca_file": str(bed.registry.authority.certificate)}
    settings = {
        "remote_runtime_endpoints": {"default": str(bed.node.socket)},
        "images": {"singularity_repository": "oras", "registries": {bed.registry.address: ca}},
        "slurm": {"known_hosts": str(bed.cluster.known_hosts)},
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.fixture
def pushed(bed: Testbed) -> str:
    """A SIF file that Apptainer has pushed to the registry."""
    reference, file = f"{bed.registry.address}/test/pushed-sif:1", "pushed.sif"
    source = f"docker://{bed.registry.address}/test/tool:1.0"
    for words in (("build", "--force", file, source), ("push", file, f"oras://{reference}")):
        bed.cluster.run("login", ["apptainer", *words], user="alice", check=True)
    bed.cluster.run("login", ["rm", f"/home/alice/{file}"], check=True)
    return f"multicri/singularity-repository.{reference}"


async def run(bed: Testbed, kubelet: Kubelet, image: str) -> list[str]:
    """The output of a job in the image."""
    pod = await kubelet.run_pod_sandbox("form", handler="multicri")
    container = await kubelet.create_container(pod, image, args=["one"], env=account_of(bed, "alice"))
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    return read_log(pod)


async def test_a_file_that_apptainer_pushed_is_pulled_listed_run_and_removed(
    bed: Testbed, kubelet: Kubelet, pushed: str
) -> None:
    image_id = await kubelet.pull(pushed)
    [image] = await kubelet.images(pushed)
    assert (image.id, list(image.repo_tags)) == (image_id, [pushed])
    [digest] = image.repo_digests
    assert digest.startswith(f"{pushed.rpartition(':')[0]}@sha256:")
    assert image.size > 100_000
    assert await kubelet.pull(digest) == image_id
    assert await run(bed, kubelet, digest) == ["in /var/tool, TOOL=of the image\n", "<one>\n"]
    pod = await kubelet.run_pod_sandbox("bob", handler="multicri")
    with pytest.raises(grpc.aio.AioRpcError, match="charliecloud builds from docker"):
        await kubelet.create_container(pod, image_id, env=account_of(bed, "bob"))
    await kubelet.call(cri.RemoveImageRequest(image=cri.ImageSpec(image=image_id)), cri.RemoveImageResponse)
    assert await kubelet.images(digest) == []
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await kubelet.pull(f"{pushed}0")
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND


async def test_multi_cris_forms_of_a_name_are_one_image_that_a_job_runs_in(bed: Testbed, kubelet: Kubelet) -> None:
    """As in its ``multicri/docker.perl.img:latest`` and ``multicri/docker.perl:latest``."""
    with_format, without = (f"multicri/docker.{bed.registry.address}/test/{name}:1.0" for name in ("tool.img", "tool"))
    image_id = await kubelet.pull(with_format)
    assert await kubelet.pull(without) == image_id
    [image] = await kubelet.images(image_id)
    assert list(image.repo_tags) == [with_format, without]
    assert await run(bed, kubelet, with_format) == ["in /var/tool, TOOL=of the image\n", "<one>\n"]
