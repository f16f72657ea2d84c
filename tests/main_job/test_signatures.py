"""Who has signed a SIF file, by Apptainer's own keys: off, warn and enforce."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import yaml
from kubelet import Kubelet, PodVolumes, Proxy, mount
from testbed import Testbed

from main_job.conftest import account_of
from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed

VOLUME = "signed-images"
MAKE = f"""\
mkdir -p ~/multi-cri/{VOLUME} && cd ~/multi-cri/{VOLUME} || exit
apptainer key newpair -N Science -E s@example.org -C c -P '' -b 2048 --push=false &&
apptainer --quiet build --disable-cache unsigned.sif docker://registry.test/test/busybox:1.0 &&
cp unsigned.sif signed.sif && apptainer sign signed.sif && cp signed.sif changed.sif &&
printf changed | dd of=changed.sif bs=1 seek=400000 conv=notrunc &&
apptainer push signed.sif oras://registry.test/test/signed:1 &&
apptainer push -U unsigned.sif oras://registry.test/test/unsigned:1
"""


@pytest.fixture(scope="module")
def keys(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """alice's public keys; her volume has images that she has signed, and others."""
    bed.cluster.run("login", ["sh", "-c", MAKE], user="alice", check=True)
    home = bed.cluster.user("alice").home
    made = tmp_path_factory.mktemp("keys") / "public"
    made.write_bytes((home / ".apptainer/keys/pgp-public").read_bytes())
    bed.cluster.run("login", ["rm", "-rf", "/home/alice/.apptainer/keys"], check=True)  # what verifies is the admin's
    yield made
    bed.cluster.run("login", ["rm", "-rf", "/home/alice/multi-cri"], check=True)


@pytest.fixture
def config(bed: Testbed, tmp_path: Path, keys: Path) -> Callable[[str], Path]:
    def written(policy: str) -> Path:
        path = tmp_path / "config.yaml"
        settings = {
            "remote_runtime_endpoints": {"default": str(bed.node.socket)},
            "images": {
                "resolve": "never",
                "singularity_repository": "oras",
                "signatures": policy,
                "signature_keys": str(keys),
            },
            "slurm": {"known_hosts": str(bed.cluster.known_hosts), "kubelet_directory": str(tmp_path / "kubelet")},
        }
        path.write_text(yaml.safe_dump(settings))
        return path

    return written


async def signature(bed: Testbed, kubelet: Kubelet, directory: Path, name: str) -> str:
    """What ContainerStatus tells of it. Raises what CreateContainer does."""
    image_id = await kubelet.pull(f"multicri/{name}")
    pod = await kubelet.run_pod_sandbox("signed", handler="multicri")
    volumes = PodVolumes(directory / "kubelet/pods" / pod.config.metadata.uid)
    container = await kubelet.create_container(
        pod,
        image_id,
        command=["true"],
        env=account_of(bed, "alice"),
        mounts=[mount(volumes.directory_of("nfs", VOLUME), "/multicri")],
    )
    answer = await kubelet.call(
        cri.ContainerStatusRequest(container_id=container, verbose=True), cri.ContainerStatusResponse
    )
    await kubelet.remove(container)
    return " ".join(words for words in answer.info.values() if "image_signature" in words)


SIGNED = ("local-image.signed.sif", "singularity-repository.registry.test/test/signed:1")
UNSIGNED = (
    "local-image.unsigned.sif",
    "local-image.changed.sif",
    "singularity-repository.registry.test/test/unsigned:1",
)


@pytest.mark.parametrize("policy", ["warn", "enforce"])
async def test_what_is_signed_is_told_and_what_is_not_is_told_or_refused(
    bed: Testbed, config: Callable[[str], Path], tmp_path: Path, policy: str
) -> None:
    proxy = Proxy(tmp_path, config(policy))
    await proxy.start()
    try:
        async with Kubelet.of(proxy.socket_path, tmp_path / "pods") as kubelet:
            for name in SIGNED:
                told = await signature(bed, kubelet, tmp_path, name)
                assert "verified, signed by" in told, json.dumps(told)
            for name in UNSIGNED:
                if policy == "warn":
                    assert "not verified: " in await signature(bed, kubelet, tmp_path, name)
                    continue
                with pytest.raises(
                    grpc.aio.AioRpcError, match=r"enforce, and it is not verified: .*(signature|integrity)"
                ) as refused:
                    await signature(bed, kubelet, tmp_path, name)
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            log = proxy.log.read_text()
            assert log.count("an image is signed") == 2
            assert log.count("an image is not known to be signed") == (3 if policy == "warn" else 0)
            if policy == "enforce":
                for name, words in (
                    ("local-def-file.x.def", "a definition has no signature"),
                    (
                        "docker.registry.test/test/busybox:1.0",
                        "there is no key to compare it with",
                    ),
                ):
                    with pytest.raises(grpc.aio.AioRpcError, match=words):
                        await signature(bed, kubelet, tmp_path, name)
    finally:
        proxy.terminate()
