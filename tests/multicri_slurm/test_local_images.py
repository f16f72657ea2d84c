"""Whose definitions may be built: they run outside of any container."""

import pytest
from multicri_slurm.local_images import check_definition
from multicri_slurm.plan import Plan, plan
from multicri_slurm.profiles import read_profiles

from multicri_proxy.api.adapter import ContainerSpec, Pod
from multicri_proxy.api.errors import PermissionDenied
from multicri_proxy.api.ids import ContainerId, ImageId, PodSandboxId
from multicri_proxy.api.image import Image

SERVICE = {"host": "h", "user": "svc", "key_file": "/k"}
OWN = {"CLUSTER_HOST": "h", "CLUSTER_USERNAME": "u", "CLUSTER_PASSWORD": "p"}


def planned(source: str, settings: dict[str, object], **env: str) -> Plan:
    pod = Pod(sandbox_id=PodSandboxId("s"), name="p", namespace="n", uid="u", attempt=0, labels={}, annotations={})
    spec = ContainerSpec(
        id=ContainerId("c" * 64),
        pod=pod,
        name="main",
        attempt=0,
        image=Image(id=ImageId("i"), source=source, names=()),
        command=("true",),
        args=(),
        env=tuple((name, value.encode()) for name, value in env.items()),
        working_dir="",
        mounts=(),
    )
    return plan(spec, read_profiles(settings, ()).of_pod(pod))


def test_a_definition_is_for_accounts_of_the_pods_own_unless_an_admin_lets_others() -> None:
    check_definition(planned("local-def-file:x.def", {}, **OWN))
    check_definition(planned("local-image:x.sif", SERVICE))
    with pytest.raises(PermissionDenied, match=r"have an admin set slurm\.pod_prerun"):
        check_definition(planned("local-def-file:x.def", SERVICE))
    check_definition(planned("local-def-file:x.def", {**SERVICE, "pod_prerun": True}))
