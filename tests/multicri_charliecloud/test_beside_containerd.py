"""Pods of both kinds on one node."""

import pytest
from kubelet import Kubelet
from kubelet.client import read_log
from testbed import Testbed

pytestmark = pytest.mark.testbed


@pytest.fixture
def who() -> str:
    return "root"


@pytest.fixture
def endpoints(bed: Testbed) -> str:
    return f"{{default: {bed.node.socket}}}"


async def test_an_ordinary_pod_is_containerds_and_a_multicri_pod_is_ours(
    bed: Testbed, kubelet: Kubelet, image: str
) -> None:
    for handler, name in (("multicri", image), ("", bed.registry.busybox)):
        image_id = await kubelet.pull(name)
        pod = await kubelet.run_pod_sandbox(f"kind-{handler}", handler=handler)
        container = await kubelet.create_container(pod, image_id, command=["sh", "-c", "echo here; exit 4"])
        await kubelet.start(container)
        assert (await kubelet.wait_until_exited(container)).exit_code == 4
        assert read_log(pod) == ["here\n"]
    assert len(await kubelet.containers()) == 2
