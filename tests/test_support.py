"""The table of what of CRI is honoured says the truth, and all of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from multicri_charliecloud.job import check
from multicri_charliecloud.settings import read_settings
from multicri_slurm.carrying import Carrier
from multicri_slurm.settings import Settings as SlurmSettings

from multicri_proxy.api.adapter import ContainerSpec
from multicri_proxy.api.errors import InvalidArgument
from multicri_proxy.api.ids import ContainerId, ImageId, PodSandboxId
from multicri_proxy.api.image import Image
from multicri_proxy.api.support import Answer, of_field
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.plugins import named_plug_ins
from multicri_proxy.runtime.configs import check_container, container_spec, sandbox_record
from multicri_proxy.support.table import MESSAGES, document, fields_of

ADAPTERS: Mapping[str, Any] = named_plug_ins("support")
FIELDS = [field for message in MESSAGES for field in fields_of(cri.DESCRIPTOR.message_types_by_name[message], message)]
MOUNT = cri.Mount(container_path="/m", host_path="/tmp")
SECURITY = "ContainerConfig.linux.security_context"


def _mount(**more: Any) -> cri.ContainerConfig:
    mount = cri.Mount(**more)
    mount.MergeFrom(MOUNT)
    return cri.ContainerConfig(mounts=[mount])


def _secure(**more: Any) -> cri.ContainerConfig:
    return cri.ContainerConfig(
        linux=cri.LinuxContainerConfig(security_context=cri.LinuxContainerSecurityContext(**more))
    )


LOCALHOST = cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref="/p")
ASKING = {
    "PodSandboxConfig.linux.sysctls": cri.PodSandboxConfig(
        linux=cri.LinuxPodSandboxConfig(sysctls={"vm.swappiness": "1"})
    ),
    "ContainerConfig.mounts.image": _mount(image=cri.ImageSpec(image="x")),
    "ContainerConfig.mounts.image_sub_path": _mount(image=cri.ImageSpec(image="x"), image_sub_path="y"),
    "ContainerConfig.mounts.propagation": _mount(propagation=cri.PROPAGATION_BIDIRECTIONAL),
    "ContainerConfig.mounts.recursive_read_only": _mount(recursive_read_only=True, readonly=True),
    "ContainerConfig.mounts.uidMappings": _mount(uidMappings=[cri.IDMapping(length=1)]),
    "ContainerConfig.mounts.gidMappings": _mount(gidMappings=[cri.IDMapping(length=1)]),
    "ContainerConfig.devices": cri.ContainerConfig(devices=[cri.Device(host_path="/dev/sda")]),
    "ContainerConfig.CDI_devices": cri.ContainerConfig(CDI_devices=[cri.CDIDevice(name="vendor/gpu=0")]),
    f"{SECURITY}.privileged": _secure(privileged=True),
    f"{SECURITY}.capabilities.add_capabilities": _secure(capabilities=cri.Capability(add_capabilities=["CHOWN"])),
    f"{SECURITY}.capabilities.add_ambient_capabilities": _secure(
        capabilities=cri.Capability(add_ambient_capabilities=["CHOWN"])
    ),
    f"{SECURITY}.namespace_options.pid": _secure(namespace_options=cri.NamespaceOption(pid=cri.NODE)),
    f"{SECURITY}.namespace_options.target_id": _secure(
        namespace_options=cri.NamespaceOption(pid=cri.TARGET, target_id="x")
    ),
    f"{SECURITY}.namespace_options.userns_options": _secure(
        namespace_options=cri.NamespaceOption(pid=cri.CONTAINER, userns_options=cri.UserNamespace(mode=cri.POD))
    ),
    f"{SECURITY}.selinux_options": _secure(selinux_options=cri.SELinuxOption(type="t")),
    f"{SECURITY}.supplemental_groups": _secure(supplemental_groups=[0]),
    f"{SECURITY}.seccomp": _secure(seccomp=LOCALHOST),
    f"{SECURITY}.apparmor": _secure(apparmor=LOCALHOST),
}
"""What asks for something that some adapter refuses."""


def _spec(asked: cri.PodSandboxConfig | cri.ContainerConfig) -> ContainerSpec:
    pod = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="p", uid="u", namespace="n"))
    config = cri.ContainerConfig(metadata=cri.ContainerMetadata(name="c"), image=cri.ImageSpec(image="i"))
    (pod if isinstance(asked, cri.PodSandboxConfig) else config).MergeFrom(asked)  # type: ignore[arg-type]
    check_container(config)
    sandbox = sandbox_record(pod, sandbox_id=PodSandboxId("s" * 64), runtime_handler="", ip="192.0.2.1", now_ns=1)
    image = Image(id=ImageId("sha256:0"), source="docker://x/y:1", names=())
    return container_spec(config, pod, sandbox, image, container_id=ContainerId("c" * 64), network_namespace="")


async def _charliecloud(asked: cri.PodSandboxConfig | cri.ContainerConfig, policy: str) -> None:
    check(_spec(asked), read_settings({"policy": policy}), is_root=True)


async def _slurm(asked: cri.PodSandboxConfig | cri.ContainerConfig, policy: str) -> None:
    spec = _spec(asked)
    if not spec.mounts:  # what is mounted is looked at on the node, and decided by rules of its own
        await Carrier().look(spec, SlurmSettings())


WAYS: Mapping[str, Callable[..., Any]] = {"charliecloud": _charliecloud, "slurm": _slurm}


def test_the_table_in_the_docs_is_the_one_that_the_code_goes_by() -> None:
    committed = Path(__file__).parent.parent / "deploy/cri.md"
    assert committed.read_text() == document(ADAPTERS), "run: python -m multicri_proxy.support >deploy/cri.md"


@pytest.mark.parametrize("adapter", WAYS)
def test_every_field_of_cri_has_an_answer_and_every_answer_is_of_a_field(adapter: str) -> None:
    assert ADAPTERS[adapter].keys() - {*FIELDS, *MESSAGES} == set()
    for field in FIELDS:
        of_field(ADAPTERS[adapter], field)


@pytest.mark.parametrize("adapter", WAYS)
def test_what_is_said_to_be_refused_has_a_test(adapter: str) -> None:
    refused = {name for name, one in ADAPTERS[adapter].items() if one.answer in {Answer.REFUSED, Answer.BY_POLICY}}
    assert refused - ASKING.keys() == set()


@pytest.mark.parametrize("adapter", WAYS)
@pytest.mark.parametrize("field", ASKING)
async def test_what_is_said_to_be_refused_is_and_nothing_else(adapter: str, field: str) -> None:
    answer = of_field(ADAPTERS[adapter], field).answer
    ask = WAYS[adapter]
    if answer is Answer.REFUSED:
        with pytest.raises(InvalidArgument, match=field.rpartition(".")[2].removesuffix("s").removesuffix("_sub_path")):
            await ask(ASKING[field], "permissive")
    elif answer is Answer.BY_POLICY:
        with pytest.raises(InvalidArgument, match=r"policy to permissive"):
            await ask(ASKING[field], "strict")
        await ask(ASKING[field], "permissive")
    else:
        await ask(ASKING[field], "strict")


@pytest.mark.parametrize("adapter", WAYS)
@pytest.mark.parametrize("field", [one for one in FIELDS if ".mounts" not in one and ".windows" not in one])
async def test_no_other_field_is_refused(adapter: str, field: str) -> None:
    if of_field(ADAPTERS[adapter], field).answer in {Answer.REFUSED, Answer.BY_POLICY}:
        return
    message, *names = field.split(".")
    asked = getattr(cri, message)()
    if _set(asked, names):
        await WAYS[adapter](asked, "strict")


def _set(message: Message, names: list[str]) -> bool:
    """Something in one field. Whether it holds anything of its own."""
    field, name = message.DESCRIPTOR.fields_by_name[names[0]], names[0]
    if field.message_type and field.message_type.GetOptions().map_entry:
        getattr(message, name)["a"] = "b"
        return True
    if field.message_type:
        inner = getattr(message, name)
        if field.is_repeated:
            inner = inner.add(key="a") if field.message_type.name == "KeyValue" else inner.add()
        elif field.message_type.name == "Int64Value":
            inner.value = 1
            return True
        return len(names) > 1 and _set(inner, names[1:])
    sample: object = {
        FieldDescriptor.CPPTYPE_STRING: f"{'/' if 'path' in name or 'dir' in name else ''}a",
        FieldDescriptor.CPPTYPE_BOOL: True,
    }.get(field.cpp_type, 1)
    sample = "a.log" if name == "log_path" else sample
    if field.is_repeated:
        getattr(message, name).append(sample)
    else:
        setattr(message, name, sample)
    return True
