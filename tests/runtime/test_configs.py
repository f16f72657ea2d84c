"""What a container's configuration says, in an adapter's words."""

import pytest

from multicri_proxy.api.adapter import Resources
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.configs import resources_of


@pytest.mark.parametrize("millicores", [3, 100, 250, 333, 1000, 1500, 64_000])
def test_a_cpu_request_comes_back_from_the_shares_that_the_kubelet_makes_of_it(millicores: int) -> None:
    shares = millicores * 1024 // 1000
    assert resources_of(cri.LinuxContainerResources(cpu_shares=shares)) == Resources(cpu_request_millicores=millicores)


def test_limits_come_back_from_quota_and_bytes() -> None:
    linux = cri.LinuxContainerResources(cpu_quota=150_000, cpu_period=100_000, memory_limit_in_bytes=1 << 30)
    assert resources_of(linux) == Resources(cpu_millicores=1500, memory_bytes=1 << 30)


def test_what_a_pod_does_not_ask_for_is_not_made_up() -> None:
    linux = cri.LinuxContainerResources(cpu_shares=2, cpu_period=100_000, cpu_quota=-1)
    assert resources_of(linux) == Resources()
