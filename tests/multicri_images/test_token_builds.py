"""Tokens instead of passwords, from a pull to a build in the cluster, with a registry that wants them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest
import yaml
from kubelet import Kubelet, Proxy
from main_job.conftest import account_of
from testbed import Testbed
from testbed.door import Door
from token_server import REFRESH_TOKEN, registry_token, token_server

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

IMAGE = "test/tool:1.0"
SCOPE = "repository:test/tool:pull"


@pytest.fixture
def door(bed: Testbed) -> Iterator[Door]:
    with (
        token_server(bed) as (url, _),
        Door(registry=bed.registry, port=5444, token_server=url).opened() as door,
    ):
        yield door


@pytest.fixture
async def proxy(bed: Testbed, door: Door, tmp_path: Path) -> AsyncIterator[Proxy]:
    settings = {
        "remote_runtime_endpoints": {"default": str(bed.node.socket)},
        "images": {
            "resolve": "always",
            "registries": {door.name: {"ca_file": str(bed.registry.authority.certificate)}},
        },
        "slurm": {"known_hosts": str(bed.cluster.known_hosts)},
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.mark.parametrize("kind", ["identity_token", "registry_token"])
async def test_apptainer_builds_a_private_image_with_a_token_and_charliecloud_says_that_it_cannot(
    bed: Testbed, door: Door, proxy: Proxy, tmp_path: Path, kind: str
) -> None:
    token = REFRESH_TOKEN if kind == "identity_token" else registry_token(bed, SCOPE)
    image = cri.ImageSpec(image=f"multicri/docker-repository.{door.name}/{IMAGE}")
    async with Kubelet.of(proxy.socket_path, tmp_path / "pods") as kubelet:
        pod = await kubelet.run_pod_sandbox("token", handler="multicri")
        with pytest.raises(grpc.aio.AioRpcError, match="unauthorized"):
            await kubelet.call(cri.PullImageRequest(image=image, sandbox_config=pod.config), cri.PullImageResponse)
        request = cri.PullImageRequest(image=image, auth=cri.AuthConfig(**{kind: token}), sandbox_config=pod.config)
        image_id = (await kubelet.call(request, cri.PullImageResponse)).image_ref
        container = await kubelet.create_container(pod, image_id, command=["true"], env=account_of(bed, "alice"))
        await kubelet.start(container)
        assert (await kubelet.wait_until_exited(container)).exit_code == 0
        with pytest.raises(grpc.aio.AioRpcError, match="a username and a password for a registry, and no tokens"):
            await kubelet.create_container(pod, image_id, name="other", env=account_of(bed, "bob"))
        spec = cri.ImageSpec(image=image_id)
        await kubelet.call(cri.RemoveImageRequest(image=spec), cri.RemoveImageResponse)
        await kubelet.remove_sandbox(pod.sandbox_id)
    for path in (proxy.log, *(proxy.directory / "resources").iterdir()):
        assert token.encode() not in path.read_bytes(), path
    images = bed.cluster.user("alice").home / "multi-cri"
    assert not [path for path in images.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
