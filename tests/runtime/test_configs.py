"""What a container's configuration says, in an adapter's words."""

import pytest

from multicri_proxy.api.adapter import Demand, Resources, SecurityContext
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.runtime.configs import changed_resources, config_digest, resources_of, security_of


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


def test_a_change_of_resources_can_take_a_limit_away() -> None:
    linux = cri.LinuxContainerResources(cpu_period=100_000, cpu_quota=-1, memory_limit_in_bytes=1 << 20)
    assert changed_resources(linux) == Resources(cpu_millicores=0, memory_bytes=1 << 20)
    assert changed_resources(cri.LinuxContainerResources(memory_limit_in_bytes=-1)) == Resources(memory_bytes=0)


def test_the_random_file_of_a_termination_message_makes_no_other_container_but_another_volume_does() -> None:
    def digest(message: str, volume: str) -> str:
        return config_digest(
            cri.ContainerConfig(
                annotations={"io.kubernetes.container.terminationMessagePath": "/dev/termination-log"},
                mounts=[
                    cri.Mount(container_path="/dev/termination-log", host_path=message),
                    cri.Mount(container_path="/volume", host_path=volume),
                ],
            )
        )

    assert digest("/pods/u/containers/c/0a1b2c3d", "/v") == digest("/pods/u/containers/c/4e5f6a7b", "/v")
    assert digest("/pods/u/containers/c/0a1b2c3d", "/v") != digest("/pods/u/containers/c/0a1b2c3d", "/w")


def test_a_security_context_is_told_by_what_it_asks_for() -> None:
    quiet = cri.LinuxContainerSecurityContext(
        namespace_options=cri.NamespaceOption(pid=cri.CONTAINER),
        seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault),
        apparmor=cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined),
        capabilities=cri.Capability(drop_capabilities=["ALL"]),
        no_new_privs=True,
        masked_paths=["/proc/kcore"],
    )
    assert _security(quiet) == SecurityContext(masked_paths=("/proc/kcore",))
    loud = cri.LinuxContainerSecurityContext(
        privileged=True,
        readonly_rootfs=True,
        run_as_user=cri.Int64Value(value=0),
        run_as_group=cri.Int64Value(value=7),
        capabilities=cri.Capability(add_capabilities=["NET_ADMIN"]),
        namespace_options=cri.NamespaceOption(pid=cri.NODE, ipc=cri.NODE),
        seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref="/x"),
        supplemental_groups=[1],
    )
    place = "ContainerConfig.linux.security_context"
    assert _security(loud) == SecurityContext(
        user=0,
        group=7,
        supplemental_groups=(1,),
        readonly_rootfs=True,
        node_ipc=True,
        demands=(
            Demand(f"{place}.privileged"),
            Demand(f"{place}.capabilities.add_capabilities", "NET_ADMIN"),
            Demand(f"{place}.namespace_options.pid", "NODE"),
            Demand(f"{place}.seccomp", "Localhost"),
        ),
    )


def _security(linux: cri.LinuxContainerSecurityContext) -> SecurityContext:
    return security_of(cri.ContainerConfig(linux=cri.LinuxContainerConfig(security_context=linux)))
