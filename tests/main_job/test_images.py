"""Images of multicri pods through the proxy, as the kubelet and an admin see them."""

import asyncio
import json
import ssl
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml
from kubelet import Kubelet, Proxy
from kubelet.client import read_log
from testbed import Testbed
from testbed.door import PASSWORD, USER, Door
from testbed.images import Image as BedImage
from testbed.images import build_layout, fill_with_busybox

from main_job.conftest import account_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed


@pytest.fixture
def private(bed: Testbed) -> Iterator[Door]:
    with Door(registry=bed.registry, port=5443, private=True).opened() as door:
        yield door


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path) -> AsyncIterator[Proxy]:
    """One that trusts the authority of the bed's registry."""
    ca = {"ca_file": str(bed.registry.authority.certificate)}
    settings = {
        "remote_runtime_endpoints": {"default": str(bed.node.socket)},
        "images": {"registries": {bed.registry.address: ca, f"{bed.registry.address}:5443": ca}},
        "slurm": {"known_hosts": str(bed.cluster.known_hosts)},
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


@pytest.fixture
def tool(bed: Testbed) -> str:
    """An image that the node can ask for."""
    return f"multicri/docker-repository.{bed.registry.address}/test/tool:1.0"


async def images_command(proxy: Proxy, *words: str, status: int = 0, stdin: str = "") -> str:
    admin_socket = proxy.socket_path.with_name("multicri-admin.sock")
    argv = [sys.executable, "-m", "multicri_proxy", "images", *words, "--admin-socket", str(admin_socket)]
    run = partial(subprocess.run, argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    done = await asyncio.to_thread(run)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


async def status_of(kubelet: Kubelet, name: str, handler: str = "") -> cri.Image:
    """As ImageStatus has it; an empty one if it is not there."""
    spec = cri.ImageSpec(image=name, runtime_handler=handler)
    return (await kubelet.call(cri.ImageStatusRequest(image=spec), cri.ImageStatusResponse)).image


async def remove(kubelet: Kubelet, name: str) -> None:
    await kubelet.call(cri.RemoveImageRequest(image=cri.ImageSpec(image=name)), cri.RemoveImageResponse)


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_job_runs_in_the_very_image_that_the_registry_named(
    bed: Testbed, kubelet: Kubelet, tool: str, user: str
) -> None:
    image_id = await kubelet.pull(tool)
    pod = await kubelet.run_pod_sandbox("tool", handler="multicri")
    container = await kubelet.create_container(
        pod, image_id, args=["one"], env={**account_of(bed, user), "JOB_QUEUE": "batch"}
    )
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    assert read_log(pod) == ["in /var/tool, TOOL=of the image\n", "<one>\n"]


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_job_runs_in_an_image_of_several_platforms(bed: Testbed, kubelet: Kubelet, user: str) -> None:
    index = push_index(bed, "test/tool", "1.0", "many")
    image_id = await kubelet.pull(f"multicri/docker-repository.{bed.registry.address}/test/tool:many")
    [digest] = [name for name in (await status_of(kubelet, image_id)).repo_digests if index in name]
    pod = await kubelet.run_pod_sandbox("tool", handler="multicri")
    container = await kubelet.create_container(pod, digest, command=["true"], env=account_of(bed, user))
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0


def push_index(bed: Testbed, repository: str, tag: str, index_tag: str) -> str:
    """Push an index with the image of a tag and the same for another platform. Returns its digest."""
    context = ssl.create_default_context(cafile=str(bed.registry.authority.certificate))

    def manifest(kind: str, name: str, body: bytes | None = None) -> tuple[str, bytes]:
        url = f"https://{bed.registry.address}/v2/{repository}/manifests/{name}"
        headers = {"Accept": kind, "Content-Type": kind}
        request = urllib.request.Request(url, body, headers, method="PUT" if body else "GET")
        with urllib.request.urlopen(request, context=context, timeout=10) as response:  # noqa: S310  (https)
            return response.headers["Docker-Content-Digest"], response.read()

    kind = "application/vnd.oci.image.manifest.v1+json"
    digest, body = manifest(kind, tag)
    entry = {"mediaType": kind, "size": len(body), "digest": digest}
    arm = {**entry, "platform": {"os": "linux", "architecture": "arm64"}}
    amd = {**entry, "platform": {"os": "linux", "architecture": "amd64"}}
    index_kind = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": index_kind, "manifests": [arm, amd]}
    return manifest(index_kind, index_tag, json.dumps(index).encode())[0]


async def test_every_form_of_a_name_finds_the_image(bed: Testbed, kubelet: Kubelet, tool: str) -> None:
    image_id = await kubelet.pull(tool)
    image = await status_of(kubelet, tool)
    assert (image.id, list(image.repo_tags), image.username) == (image_id, [tool], "nobody")
    assert image.size > 100_000
    [digest] = image.repo_digests
    assert digest.startswith(f"multicri/docker-repository.{bed.registry.address}/test/tool@sha256:")
    alias = tool.replace("docker-repository.", "docker.")
    for name in (image_id, image_id.removeprefix("sha256:"), digest, alias, tool.replace(":1.0", ".img:1.0")):
        assert await status_of(kubelet, name) == image, name
        assert await kubelet.images(name) == [image], name
    assert await kubelet.pull(alias) == image_id
    assert await kubelet.pull(digest) == image_id
    image = await status_of(kubelet, image_id)
    assert (list(image.repo_tags), list(image.repo_digests)) == ([tool, alias], [digest])
    await remove(kubelet, image_id)
    for name in (tool, alias, digest, image_id):
        assert (await status_of(kubelet, name)).id == "", name


async def test_garbage_collection_takes_ours_and_the_nodes_apart(bed: Testbed, kubelet: Kubelet, tool: str) -> None:
    """As the kubelet does it: all images are listed, those in use spared, the others removed by their ids."""
    ordinary = await kubelet.pull(f"{bed.registry.address}/test/tool:1.0")
    ours = await kubelet.pull(tool)
    assert ordinary != ours, "one image, in two places: each is to be removed by itself"
    await kubelet.call(cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
    listed = {image.id: image for image in await kubelet.images()}
    assert {ordinary, ours} <= listed.keys()
    assert listed[ours].size > 0
    assert listed[ours].pinned and not listed[ordinary].pinned, "removing ours makes no room on the node"
    await remove(kubelet, ours)
    assert ours not in {image.id for image in await kubelet.images()}
    assert (await status_of(kubelet, ordinary)).id == ordinary
    assert (await status_of(kubelet, tool)).id == ""
    await remove(kubelet, ours)
    assert await kubelet.pull(tool) == ours
    await remove(kubelet, ordinary)
    assert (await status_of(kubelet, ours)).id == ours


async def test_a_mere_reference_is_ours_by_its_runtime_handler(bed: Testbed, kubelet: Kubelet, tool: str) -> None:
    name = tool.removeprefix("multicri/docker-repository.")
    spec = cri.ImageSpec(image=name, runtime_handler="multicri")
    pulled = await kubelet.call(cri.PullImageRequest(image=spec), cri.PullImageResponse)
    assert pulled.image_ref == await kubelet.pull(tool)
    assert (await status_of(kubelet, name, "multicri")).id == pulled.image_ref


async def test_what_nothing_can_build_is_refused_when_it_is_pulled(kubelet: Kubelet) -> None:
    for name in ("multicri/nonsense", "multicri/docker-repository.UPPER"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await kubelet.pull(name)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert name in (refused.value.details() or "")


async def test_a_pull_with_a_pods_credentials_and_one_with_wrong_ones(
    private: Door, proxy: Proxy, kubelet: Kubelet
) -> None:
    image = cri.ImageSpec(image=f"multicri/docker-repository.{private.name}/test/tool:1.0")
    sandbox = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="p", namespace="physics", uid="u"))
    for auth in (cri.AuthConfig(), cri.AuthConfig(username=USER, password="wr0ng-secret")):
        with pytest.raises(grpc.aio.AioRpcError, match="unauthorized") as refused:
            await kubelet.call(
                cri.PullImageRequest(image=image, auth=auth, sandbox_config=sandbox), cri.PullImageResponse
            )
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    auth = cri.AuthConfig(username=USER, password=PASSWORD)
    await kubelet.call(cri.PullImageRequest(image=image, auth=auth, sandbox_config=sandbox), cri.PullImageResponse)
    for path in (proxy.log, *(proxy.directory / "resources").iterdir()):
        assert PASSWORD.encode() not in path.read_bytes(), path
        assert b"wr0ng-secret" not in path.read_bytes(), path


async def test_a_job_runs_in_a_private_image_with_the_credentials_of_its_namespace_and_of_no_other(
    bed: Testbed, private: Door, kubelet: Kubelet
) -> None:
    image = cri.ImageSpec(image=f"multicri/docker-repository.{private.name}/test/busybox:1.0")
    pod = await kubelet.run_pod_sandbox("mine", handler="multicri")
    account = account_of(bed, "alice")

    def pull(namespace: str) -> cri.PullImageRequest:
        sandbox = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="p", namespace=namespace, uid="u"))
        auth = cri.AuthConfig(username=USER, password=PASSWORD)
        return cri.PullImageRequest(image=image, auth=auth, sandbox_config=sandbox)

    image_id = (await kubelet.call(pull("another"), cri.PullImageResponse)).image_ref
    with pytest.raises(grpc.aio.AioRpcError, match="its registry"):
        await kubelet.create_container(pod, image_id, command=["true"], env=account)
    await kubelet.call(pull("default"), cri.PullImageResponse)
    container = await kubelet.create_container(pod, image_id, command=["true"], env=account)
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_job_runs_in_a_private_image_that_goes_from_the_cluster_when_the_kubelet_removes_it(
    bed: Testbed, private: Door, kubelet: Kubelet, user: str
) -> None:
    pod = await kubelet.run_pod_sandbox("private", handler="multicri")
    request = cri.PullImageRequest(
        image=cri.ImageSpec(image=f"multicri/docker-repository.{private.name}/test/busybox:1.0"),
        auth=cri.AuthConfig(username=USER, password=PASSWORD),
        sandbox_config=pod.config,
    )
    image_id = (await kubelet.call(request, cri.PullImageResponse)).image_ref
    container = await kubelet.create_container(pod, image_id, command=["true"], env=account_of(bed, user))
    await kubelet.start(container)
    assert (await kubelet.wait_until_exited(container)).exit_code == 0
    images = bed.cluster.user(user).home / "multi-cri/images"
    digits = image_id.removeprefix("sha256:")
    assert list(images.glob(f"{digits}*"))
    await remove(kubelet, image_id)
    assert list(images.glob(f"{digits}*")), "a container stands on it"
    other = await kubelet.create_container(
        pod,
        await kubelet.pull(f"multicri/docker-repository.{bed.registry.busybox}"),
        name="other",  # whose credentials lead to the account when the first one is gone
        env=account_of(bed, user),
    )
    await kubelet.remove(container)
    async with asyncio.timeout(60):
        while list(images.glob(f"{digits}*")):
            await asyncio.sleep(0.1)
    await kubelet.remove(other)


async def test_twenty_pulls_of_one_image_are_one_build_and_ten_of_different_ones_are_ten(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, tmp_path: Path, account: Mapping[str, str]
) -> None:
    images = [BedImage(name=f"many/image:{number}", config=(f"--config.env=NUMBER={number}",)) for number in range(10)]
    build_layout(tmp_path / "layout", images, fill_with_busybox)
    for image in images:
        bed.registry.push(tmp_path / "layout", image)
    names = [f"multicri/docker-repository.{bed.registry.address}/{image.name}" for image in images]
    ids = await asyncio.gather(*(kubelet.pull(name) for name in (*names, *20 * names[:1])))
    assert len(set(ids)) == len(set(ids[:10])) == 10
    pod = await kubelet.run_pod_sandbox("many", handler="multicri")
    wanted = [*ids[:10], *5 * ids[:1]]
    await asyncio.gather(
        *(
            kubelet.create_container(pod, image_id, name=f"c{number}", command=["true"], env=account)
            for number, image_id in enumerate(wanted)
        )
    )
    assert [[build["state"] for build in image["builds"]] for image in await listing(proxy)] == 10 * [["built"]]
    assert proxy.log.read_text().count("building an image") == 10


async def test_an_admin_lists_pulls_and_removes_images(
    bed: Testbed, proxy: Proxy, kubelet: Kubelet, tool: str, account: Mapping[str, str]
) -> None:
    assert await images_command(proxy) == "IMAGE  ID  SIZE  CONTAINERS  BUILT\n"
    said = (await images_command(proxy, "pull", tool)).splitlines()
    assert said[0] == f"asking what {tool} means"
    assert said[1].startswith(f"pulled {tool}: sha256:")
    pod = await kubelet.run_pod_sandbox("user", handler="multicri")
    container = await kubelet.create_container(pod, tool, command=["true"], env=account)
    [listed] = await listing(proxy)
    assert (listed["names"], listed["containers"], listed["pinned"]) == ([tool], 1, False)
    other = f"multicri/docker-repository.{bed.registry.busybox}"
    assert "its registry was not asked" in await images_command(proxy, "pull", other)
    assert "is used by 1 containers: --force" in await images_command(proxy, "rm", tool, status=1)
    assert f"removed {other}" in await images_command(proxy, "prune")
    assert [image["names"] for image in await listing(proxy)] == [[tool]]
    assert f"removed {tool}" in await images_command(proxy, "rm", "--force", tool)
    assert await listing(proxy) == []
    assert "is not there" in await images_command(proxy, "rm", tool, status=1)
    assert "no such tag" in await images_command(proxy, "pull", f"{tool}x", status=1)
    await kubelet.remove(container)


async def test_an_admin_pulls_a_private_image_with_credentials_from_a_file_or_stdin(
    private: Door, proxy: Proxy, tmp_path: Path
) -> None:
    name, config = f"multicri/docker-repository.{private.name}/test/tool:1.0", tmp_path / "docker.json"
    assert "unauthorized" in await images_command(proxy, "pull", name, status=1)
    entry = {"auth": b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    config.write_text(json.dumps({"auths": {f"https://{private.name}/v2/": entry}}))
    assert f"pulled {name}" in await images_command(proxy, "pull", name, "--docker-config", str(config))
    await images_command(proxy, "rm", name)
    words = ("pull", name, "--namespace", "physics", "--username", USER, "--password-stdin")
    assert f"pulled {name}" in await images_command(proxy, *words, stdin=f"{PASSWORD}\n")
    assert "unauthorized" in await images_command(proxy, *words, stdin="wr0ng-secret", status=1)
    for path in (proxy.log, *(proxy.directory / "resources").iterdir()):
        assert PASSWORD.encode() not in path.read_bytes(), path
        assert b"wr0ng-secret" not in path.read_bytes(), path


async def listing(proxy: Proxy) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await images_command(proxy, "-o", "json")).splitlines()]
