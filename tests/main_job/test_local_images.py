"""Images that are files in a container's volume, which the cluster has mounted too: run as they are, or built of."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from kubelet import Kubelet, PodVolumes, Proxy, mount
from kubelet.client import PodOnNode, read_log
from testbed import Testbed
from testbed.cluster import UserName

from main_job.conftest import CONFIG, account_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

VOLUME = "images-of-mine"
DEFINITION = """\
Bootstrap: docker
From: registry.test/test/busybox:1.0
%files
  data /data
%environment
  export DEFINED=yes
%runscript
  echo "DEFINED=$DEFINED, $(cat /data), $1"
"""
SIF = (
    f"cd ~/multi-cri/{VOLUME} && apptainer --quiet build --disable-cache tool.sif docker://registry.test/test/tool:1.0"
)
SQUASHFS = f"""\
export CH_IMAGE_CACHE=disabled CH_IMAGE_STORAGE=/tmp/squash.$$ && cd ~/multi-cri/{VOLUME} &&
ch-image pull registry.test/test/tool:1.0 &&
ch-convert -i ch-image -o squash registry.test/test/tool:1.0 tool.squashfs && rm -r $CH_IMAGE_STORAGE
"""


@pytest.fixture
async def proxy(bed: Testbed, tmp_path: Path) -> AsyncIterator[Proxy]:
    config = tmp_path / "config.yaml"
    text = CONFIG.format(containerd=bed.node.socket, known_hosts=bed.cluster.known_hosts)
    config.write_text(f"{text}  kubelet_directory: {tmp_path}/kubelet\n")
    proxy = Proxy(tmp_path, config)
    await proxy.start()
    yield proxy
    proxy.terminate()


class Volume:
    """An account's directory in the cluster, and containers that have it mounted."""

    def __init__(self, bed: Testbed, kubelet: Kubelet, directory: Path) -> None:
        self._bed = bed
        self._kubelet = kubelet
        self._directory = directory

    def run(self, user: UserName, script: str) -> None:
        script = f"mkdir -p ~/multi-cri/{VOLUME}; {script}"
        self._bed.cluster.run("login", ["sh", "-c", f"cd; {script}"], user=user, check=True)

    async def container(
        self, user: str, file: str, *, args: tuple[str, ...] = (), mounted: bool = True
    ) -> tuple[PodOnNode, str]:
        image = f"multicri/{file}"
        image_id = await self._kubelet.pull(image)
        answer = await self._kubelet.call(
            cri.ImageStatusRequest(image=cri.ImageSpec(image=image)), cri.ImageStatusResponse
        )
        assert (answer.image.id, list(answer.image.repo_tags)) == (image_id, [image])
        pod = await self._kubelet.run_pod_sandbox(f"local-{user}", handler="multicri")
        volumes = PodVolumes(self._directory / "pods" / pod.config.metadata.uid)
        container = await self._kubelet.create_container(
            pod,
            image_id,
            args=list(args),
            env=account_of(self._bed, user),
            mounts=[mount(volumes.directory_of("nfs", VOLUME), "/multicri")] if mounted else [],
        )
        return pod, container

    async def says(self, user: str, file: str, *args: str) -> list[str]:
        pod, container = await self.container(user, file, args=args)
        await self._kubelet.start(container)
        status = await self._kubelet.wait_until_exited(container)
        said = read_log(pod, stream="stdout")
        assert status.exit_code == 0, read_log(pod)
        await self._kubelet.remove_sandbox(pod.sandbox_id)
        return said

    async def refused(self, user: str, file: str, *, mounted: bool = True) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.container(user, file, mounted=mounted)
        return caught.value.code(), caught.value.details() or ""


@pytest.fixture
def volume(bed: Testbed, kubelet: Kubelet, tmp_path: Path) -> Iterator[Volume]:
    yield Volume(bed, kubelet, tmp_path / "kubelet")
    for user in ("alice", "bob"):
        bed.cluster.run("login", ["rm", "-rf", f"/home/{user}/multi-cri"], check=True)


async def test_a_file_in_the_volume_is_run_as_it_is(volume: Volume) -> None:
    volume.run("alice", SIF)
    assert await volume.says("alice", "local-image.tool.sif", "one") == ["in /multicri, TOOL=of the image\n", "<one>\n"]
    volume.run("bob", SQUASHFS)
    assert await volume.says("bob", "local-image.tool.squashfs") == [
        "in /multicri, TOOL=of the image\n",
        "<a b>\n",
        "<$HOME>\n",
    ]


async def test_a_definition_is_built_again_once_it_says_something_else(
    bed: Testbed, volume: Volume, proxy: Proxy
) -> None:
    volume.run("alice", f"cd multi-cri/{VOLUME} && echo one > data && cat > tool.def <<'END'\n{DEFINITION}END")
    for _ in range(2):
        assert await volume.says("alice", "local-def-file.tool.def", "x") == ["DEFINED=yes, one, x\n"]
    assert proxy.log.read_text().count("building an image") == 1
    volume.run("alice", f"cd multi-cri/{VOLUME} && sed -i s/yes/again/ tool.def")
    assert await volume.says("alice", "local-def-file.tool.def", "x") == ["DEFINED=again, one, x\n"]
    assert proxy.log.read_text().count("building an image") == 2


async def test_what_is_not_there_leads_out_of_the_volume_or_cannot_be_run_is_refused_by_name(volume: Volume) -> None:
    invalid, missing, failed = (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    volume.run("alice", f"cd multi-cri/{VOLUME} && ln -sf /etc/passwd out.sif && ln -sf .. up && echo x > text.sif")
    for file, code, words in (
        ("local-image.nothing.sif", missing, "has no file 'nothing.sif'"),
        ("local-image.out.sif", invalid, "'out.sif' is a link that leads out of the volume"),
        ("local-image.up/x", missing, "has no file 'up/x'"),
        ("local-def-file.out.sif", invalid, "leads out of the volume"),
        ("local-image.text.sif", invalid, "neither a SIF nor a SquashFS file"),
    ):
        found = await volume.refused("alice", file)
        assert found[0] is code, found
        assert words in found[1]
    found = await volume.refused("alice", "local-image.text.sif", mounted=False)
    assert found[0] is invalid
    assert "mount at '/multicri' one that the cluster has mounted" in found[1]
    volume.run("bob", f"cd multi-cri/{VOLUME} && printf '%32sSIF_MAGIC' '' > tool.sif && echo > x.def")
    assert await volume.refused("bob", "local-image.tool.sif") == (
        failed,
        f"image local-image:tool.sif: {VOLUME}: 'tool.sif' is a SIF file, which Charliecloud does not run",
    )
    assert (
        "only Apptainer and Singularity build definitions" in (await volume.refused("bob", "local-def-file.x.def"))[1]
    )
