"""Sequences of calls that make, use and remove pods, as hypothesis draws them.

Any call may come at any time, so that most sequences also ask for what is not there, not yet or not any more. Ids are
named by the number of the call that made them.
"""

from collections.abc import Sequence

from google.protobuf.message import Message
from hypothesis import strategies as st

from differential.calls import Sent
from differential.names import name_of
from differential.standing import LABEL
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.methods import V1

SEQUENCE_LABELS = {LABEL: "sequence"}
ENDS = "ends"
"""The label of a container whose command ends at once, or runs for long: nothing in between can be compared."""

LONGEST = 14

_IMAGE_METHODS = frozenset(method.name for method in cri.DESCRIPTOR.services_by_name["ImageService"].methods)
_COMMANDS = (["sleep", "600"], ["sh", "-c", "echo out; echo err >&2; exit 3"], ["no-such-program"])
_EXECUTED = (["echo", "hi"], ["sh", "-c", "echo err >&2; exit 7"], ["no-such-program"])


def call_of(request: Message, version: str = V1) -> Sent:
    """CRI names every request after its method."""
    method = type(request).__name__.removesuffix("Request")
    service = "ImageService" if method in _IMAGE_METHODS else "RuntimeService"
    return Sent(path=f"/{version}.{service}/{method}", request=request.SerializeToString())


def sandbox_config(number: int, logs: str) -> cri.PodSandboxConfig:
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=f"pod-{number}", uid=f"uid-{number}", namespace="differential"),
        hostname=f"pod-{number}",
        log_directory=f"{logs}/pod-{number}",
        labels={**SEQUENCE_LABELS, "number": str(number)},
        annotations={"a": "1", "b": "2"},
        linux=cri.LinuxPodSandboxConfig(),
    )


def container_config(name: str, image: str, command: Sequence[str]) -> cri.ContainerConfig:
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image=image),
        command=command,
        envs=[cri.KeyValue(key="FOO", value=b"\xff bar")],
        labels={**SEQUENCE_LABELS, "name": name, ENDS: "never" if command[0] == "sleep" else "at once"},
        log_path=f"{name}.log",
        linux=cri.LinuxContainerConfig(),
    )


def sequences(image: str, logs: str) -> st.SearchStrategy[list[Sent]]:
    """logs: where the pods' log directories are."""
    numbers = st.integers(0, 1)
    sandboxes = st.integers(0, 1).map(lambda number: name_of("sandbox", number))
    containers = st.integers(0, 2).map(lambda number: name_of("container", number))
    images = st.sampled_from([image, image, image, "registry.test/none:1"])
    messages = st.one_of(
        st.builds(
            lambda sandbox, number, image, command: cri.CreateContainerRequest(
                pod_sandbox_id=sandbox,
                config=container_config(f"c{number}", image, command),
                sandbox_config=sandbox_config(0, logs),
            ),
            sandboxes,
            numbers,
            images,
            st.sampled_from(_COMMANDS),
        ),
        st.builds(lambda found: cri.StartContainerRequest(container_id=found), containers),
        st.builds(lambda found: cri.StopContainerRequest(container_id=found, timeout=0), containers),
        st.builds(lambda found: cri.RemoveContainerRequest(container_id=found), containers),
        st.builds(lambda found: cri.ContainerStatusRequest(container_id=found), containers),
        st.builds(
            lambda found, command: cri.ExecSyncRequest(container_id=found, cmd=command, timeout=20),
            containers,
            st.sampled_from(_EXECUTED),
        ),
        st.builds(lambda found: cri.ContainerStatsRequest(container_id=found), containers),
        st.builds(
            lambda found: cri.UpdateContainerResourcesRequest(
                container_id=found, linux=cri.LinuxContainerResources(cpu_shares=512)
            ),
            containers,
        ),
        st.builds(lambda found: cri.ReopenContainerLogRequest(container_id=found), containers),
        st.builds(
            lambda number, handler: cri.RunPodSandboxRequest(
                config=sandbox_config(number, logs), runtime_handler=handler
            ),
            numbers,
            st.sampled_from(["", "", "alt", "nvidia"]),
        ),
        st.builds(lambda found: cri.StopPodSandboxRequest(pod_sandbox_id=found), sandboxes),
        st.builds(lambda found: cri.RemovePodSandboxRequest(pod_sandbox_id=found), sandboxes),
        st.builds(lambda found: cri.PodSandboxStatusRequest(pod_sandbox_id=found), sandboxes),
        st.just(cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(label_selector=SEQUENCE_LABELS))),
        st.just(cri.ListContainersRequest(filter=cri.ContainerFilter(label_selector=SEQUENCE_LABELS))),
        st.just(cri.ListContainerStatsRequest(filter=cri.ContainerStatsFilter(label_selector=SEQUENCE_LABELS))),
        st.builds(lambda found: cri.ImageStatusRequest(image=cri.ImageSpec(image=found)), images),
        st.just(cri.PullImageRequest(image=cri.ImageSpec(image=image))),
    )
    beginning = [
        call_of(cri.RunPodSandboxRequest(config=sandbox_config(0, logs))),
        call_of(
            cri.CreateContainerRequest(
                pod_sandbox_id=name_of("sandbox", 0),
                config=container_config("c0", image, _COMMANDS[0]),
                sandbox_config=sandbox_config(0, logs),
            )
        ),
        call_of(cri.StartContainerRequest(container_id=name_of("container", 0))),
    ]
    any_calls = st.lists(messages.map(call_of), min_size=1, max_size=LONGEST)
    return st.builds(lambda whether, rest: (beginning if whether else []) + rest, st.booleans(), any_calls)
