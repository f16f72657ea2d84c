"""One containerd, one proxy before it, and a client for each way, for all tests of this folder."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
from kubelet import Kubelet, Proxy
from testbed import Testbed

from differential.calls import OPTIONS, Sent
from differential.sequences import ENDS
from differential.standing import Standing, remove_labelled, standing_pods
from multicri_proxy.cri.v1 import runtime_pb2 as cri


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The same containerd by two ways. runner: the event loop that the channels belong to."""

    runner: asyncio.Runner
    direct: grpc.aio.Channel
    proxied: grpc.aio.Channel
    containerd: Path
    standing: Standing
    kubelet: Kubelet

    async def settle(self, sent: Sent) -> None:
        """A container that ends at once has ended before the next call."""
        if sent.method != "StartContainer":
            return
        container_id = cri.StartContainerRequest.FromString(sent.request).container_id
        found = [one for one in await self.kubelet.containers() if one.id == container_id]
        if found and found[0].labels.get(ENDS) == "at once" and found[0].state == cri.CONTAINER_RUNNING:
            await self.kubelet.wait_until_exited(container_id)

    async def clean(self) -> None:
        """Remove what a sequence has made."""
        await remove_labelled(self.kubelet, "sequence")


@asynccontextmanager
async def _sides(bed: Testbed, directory: Path, runner: asyncio.Runner) -> AsyncIterator[Sides]:
    config = directory / "config.yaml"
    config.write_text(f"remote_runtime_endpoints:\n  default: {bed.node.socket}\n")
    proxy = Proxy(directory, config)
    await proxy.start()
    try:
        async with (
            grpc.aio.insecure_channel(f"unix:{bed.node.socket}", options=OPTIONS) as direct,
            grpc.aio.insecure_channel(f"unix:{proxy.socket_path}", options=OPTIONS) as proxied,
        ):
            kubelet = Kubelet(direct, directory / "pods")
            await remove_labelled(kubelet, "standing")
            await remove_labelled(kubelet, "sequence")
            async with standing_pods(kubelet, bed.registry.busybox) as standing:
                yield Sides(
                    runner=runner,
                    direct=direct,
                    proxied=proxied,
                    containerd=bed.node.socket,
                    standing=standing,
                    kubelet=kubelet,
                )
    finally:
        proxy.terminate()


@pytest.fixture(scope="package")
def sides(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    with asyncio.Runner() as runner:
        making = _sides(bed, tmp_path_factory.mktemp("differential"), runner)
        yield runner.run(making.__aenter__())
        runner.run(making.__aexit__(None, None, None))
