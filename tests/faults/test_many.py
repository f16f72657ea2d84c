"""Many pods, and two proxies, on one account of one cluster."""

import asyncio
from collections.abc import Iterator

import pytest
from testbed import Testbed

from faults.breaking import sshd_with
from faults.conftest import HANDLER, MakeNode, Node
from faults.looking import agree, eventually, jobs_of, jobs_that_live, printed
from faults.test_ssh import COUNTS, begin, goes_on

pytestmark = pytest.mark.testbed

MANY = 200
MOST_CONNECTIONS = 2


@pytest.fixture
def room(bed: Testbed) -> Iterator[None]:
    """Nodes whose processors may be shared by many jobs."""
    share = ["scontrol", "update", "partitionname=batch"]
    bed.cluster.run("login", [*share, "OverSubscribe=FORCE:64"], check=True)
    yield
    bed.cluster.run("login", [*share, "OverSubscribe=NO"], check=True)


@pytest.mark.usefixtures("room")
async def test_two_hundred_pods_at_once_are_one_connection_and_all_end_well(
    bed: Testbed, node: Node, image: str, account: dict[str, str]
) -> None:
    """With the limits that sshd has by default."""
    await node.kubelet.pull(image)
    connections = 0

    async def live(number: int) -> None:
        pod = await node.kubelet.run_pod_sandbox(f"pod-{number}", handler=HANDLER)
        command = ["sh", "-c", f"echo {number}; exit 5"]
        container_id = await node.kubelet.create_container(pod, image, command=command, env=account)
        await node.kubelet.start(container_id)
        assert (await node.kubelet.wait_until_exited(container_id, timeout_s=120)).exit_code == 5
        assert printed(pod)[b"stdout"] == b"%d\n" % number
        assert len(jobs_of(bed, container_id)) == 1

    async def count_connections() -> None:
        nonlocal connections
        while True:
            found = await asyncio.to_thread(
                bed.cluster.run, "login", ["ss", "-Htn", "state", "established", "( sport = :22 )"]
            )
            connections = max(connections, len(found.stdout.splitlines()))
            await asyncio.sleep(0.5)

    with sshd_with(bed, MaxSessions=10, MaxStartups="10:30:100"):
        counting = asyncio.ensure_future(count_connections())
        await asyncio.gather(*(live(number) for number in range(MANY)))
        await node.remove_everything()
        counting.cancel()
    assert 0 < connections <= MOST_CONNECTIONS


async def test_two_proxies_with_one_account_do_not_touch_each_others_pods(
    bed: Testbed, nodes: MakeNode, image: str, account: dict[str, str]
) -> None:
    one, other = await nodes("one"), await nodes("other")
    (_, mine), (theirs_pod, theirs) = await asyncio.gather(
        begin(one.kubelet, "pod", image, account, COUNTS), begin(other.kubelet, "pod", image, account, COUNTS)
    )
    assert [c.id for c in await one.kubelet.containers(id=theirs)] == []
    one.proxy.kill()
    await one.proxy.start()
    await one.remove_everything()
    await eventually(lambda: jobs_of(bed, theirs)[0] in jobs_that_live(bed), lambda: "the other's job has gone")
    assert not set(jobs_of(bed, mine)) & set(jobs_that_live(bed))
    await goes_on(theirs_pod)
    await agree(bed, other.kubelet)
