"""Both kinds of pods in one list."""

from collections.abc import Mapping

import pytest
from kubelet import Kubelet
from testbed import Testbed

from multicri_proxy.cri.v1 import runtime_pb2 as cri

pytestmark = pytest.mark.testbed


async def test_lists_show_both_kinds_and_every_filter_tells_them_apart(
    bed: Testbed, kubelet: Kubelet, image: str, account: Mapping[str, str]
) -> None:
    await kubelet.pull(bed.registry.busybox)
    await kubelet.pull(image)
    ordinary = await kubelet.run_pod_sandbox("ordinary", labels={"kind": "ordinary", "both": "yes"})
    job = await kubelet.run_pod_sandbox("job", handler="multicri", labels={"kind": "job", "both": "yes"})
    ordinary_container = await kubelet.create_container(
        ordinary, bed.registry.busybox, command=["sleep", "600"], labels={"kind": "ordinary"}
    )
    job_container = await kubelet.create_container(
        job, image, command=["sleep", "600"], env=account, labels={"kind": "job"}
    )
    await kubelet.start(ordinary_container)

    def ids(found: list[cri.PodSandbox] | list[cri.Container]) -> set[str]:
        return {item.id for item in found}

    both = {ordinary.sandbox_id, job.sandbox_id}
    assert ids(await kubelet.sandboxes()) >= both
    assert ids(await kubelet.sandboxes(label_selector={"both": "yes"})) == both
    assert ids(await kubelet.sandboxes(label_selector={"both": "yes", "kind": "job"})) == {job.sandbox_id}
    for pod in (ordinary, job):
        assert ids(await kubelet.sandboxes(id=pod.sandbox_id)) == {pod.sandbox_id}
        assert ids(await kubelet.sandboxes(id=pod.sandbox_id[:13])) == {pod.sandbox_id}
    ready = cri.PodSandboxStateValue(state=cri.SANDBOX_NOTREADY)
    assert not ids(await kubelet.sandboxes(state=ready)) & both

    assert ids(await kubelet.containers()) >= {ordinary_container, job_container}
    for pod, container, kind in ((ordinary, ordinary_container, "ordinary"), (job, job_container, "job")):
        assert ids(await kubelet.containers(pod_sandbox_id=pod.sandbox_id)) == {container}
        assert ids(await kubelet.containers(id=container)) == {container}
        assert ids(await kubelet.containers(label_selector={"kind": kind})) == {container}
    running = cri.ContainerStateValue(state=cri.CONTAINER_RUNNING)
    found = ids(await kubelet.containers(state=running))
    assert ordinary_container in found
    assert job_container not in found

    names = {tag for listed in await kubelet.images() for tag in listed.repo_tags}
    assert names >= {bed.registry.busybox, image}
    assert [tag for listed in await kubelet.images(image) for tag in listed.repo_tags] == [image]
    # containerd 1.6 ignores this filter, but ours has nothing to add to its answer
    theirs = {tag for listed in await kubelet.images(bed.registry.busybox) for tag in listed.repo_tags}
    assert bed.registry.busybox in theirs
    assert image not in theirs


async def test_status_says_ready_and_names_our_handler_beside_containerds(kubelet: Kubelet) -> None:
    reply = await kubelet.call(cri.StatusRequest(), cri.StatusResponse)
    conditions = {condition.type: condition.status for condition in reply.status.conditions}
    assert conditions["RuntimeReady"]
    assert conditions["NetworkReady"]
    assert "multicri" in [handler.name for handler in reply.runtime_handlers]


async def test_a_multicri_sandbox_has_an_ip(kubelet: Kubelet) -> None:
    pod = await kubelet.run_pod_sandbox("ip", handler="multicri")
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox_id)
    status = (await kubelet.call(request, cri.PodSandboxStatusResponse)).status
    assert status.network.ip
    assert status.runtime_handler == "multicri"
