"""A CRI client that does with a runtime what the kubelet does, in the kubelet's order."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc.aio
from google.protobuf.message import Message

from multicri_proxy.cri.v1 import runtime_pb2 as cri

_Response = TypeVar("_Response", bound=Message)

_IMAGE_METHODS = frozenset(method.name for method in cri.DESCRIPTOR.services_by_name["ImageService"].methods)
_CALL_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PodOnNode:
    """A sandbox that runs, and what it was made from."""

    sandbox_id: str
    config: cri.PodSandboxConfig

    @property
    def log_directory(self) -> Path:
        return Path(self.config.log_directory)


@dataclass(frozen=True, slots=True)
class Kubelet:
    """channel: to the runtime's socket. logs: where the pods' log directories are made."""

    channel: grpc.aio.Channel
    logs: Path
    timeout_s: float = field(default=_CALL_TIMEOUT_S)

    @classmethod
    @asynccontextmanager
    async def of(cls, socket_path: Path, logs: Path) -> AsyncIterator["Kubelet"]:
        async with grpc.aio.insecure_channel(f"unix:{socket_path}") as channel:
            yield cls(channel, logs)

    async def call(self, request: Message, response: type[_Response]) -> _Response:
        """The unary call whose request this is: CRI names every request after its method."""
        method = type(request).__name__.removesuffix("Request")
        service = "ImageService" if method in _IMAGE_METHODS else "RuntimeService"
        path = f"/runtime.v1.{service}/{method}"
        return response.FromString(await ask(self.channel, path, request.SerializeToString(), self.timeout_s))

    async def pull(self, image: str) -> str:
        """Returns the image's id."""
        spec = cri.ImageSpec(image=image)
        pulled = await self.call(cri.PullImageRequest(image=spec), cri.PullImageResponse)
        return pulled.image_ref

    async def run_pod_sandbox(
        self,
        name: str,
        *,
        handler: str = "",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        more: cri.PodSandboxConfig | None = None,
    ) -> PodOnNode:
        """more: what else its configuration holds."""
        uid = str(uuid.uuid4())
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace="default"),
            hostname=name,
            log_directory=str(self.logs / f"default_{name}_{uid}"),
            labels=labels or {},
            annotations=annotations or {},
            linux=cri.LinuxPodSandboxConfig(),
        )
        config.MergeFrom(more or cri.PodSandboxConfig())
        request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
        ran = await self.call(request, cri.RunPodSandboxResponse)
        return PodOnNode(sandbox_id=ran.pod_sandbox_id, config=config)

    async def create_container(
        self,
        pod: PodOnNode,
        image: str,
        *,
        name: str = "main",
        attempt: int = 0,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        env: Mapping[str, str | bytes] | None = None,
        working_dir: str = "",
        labels: Mapping[str, str] | None = None,
        mounts: Sequence[cri.Mount] = (),
        message_path: str = "/dev/termination-log",
        resources: cri.LinuxContainerResources | None = None,
        security: cri.LinuxContainerSecurityContext | None = None,
        stdin: bool = False,
        stdin_once: bool = False,
        tty: bool = False,
        stop_signal: cri.Signal = cri.RUNTIME_DEFAULT,
    ) -> str:
        """Returns the container's id."""
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name, attempt=attempt),
            image=cri.ImageSpec(image=image, user_specified_image=image),
            command=command,
            args=args,
            envs=[
                cri.KeyValue(key=key, value=value.encode() if isinstance(value, str) else value)
                for key, value in (env or {}).items()
            ],
            working_dir=working_dir,
            labels=labels or {},
            annotations={"io.kubernetes.container.terminationMessagePath": message_path},
            mounts=mounts,
            log_path=f"{name}/{attempt}.log",
            stdin=stdin,
            stdin_once=stdin_once,
            tty=tty,
            stop_signal=stop_signal,
            linux=cri.LinuxContainerConfig(resources=resources, security_context=security),
        )
        (pod.log_directory / name).mkdir(parents=True, exist_ok=True)
        request = cri.CreateContainerRequest(pod_sandbox_id=pod.sandbox_id, config=config, sandbox_config=pod.config)
        return (await self.call(request, cri.CreateContainerResponse)).container_id

    async def start(self, container_id: str) -> None:
        await self.call(cri.StartContainerRequest(container_id=container_id), cri.StartContainerResponse)

    async def stop(self, container_id: str, grace_period_s: int) -> None:
        request = cri.StopContainerRequest(container_id=container_id, timeout=grace_period_s)
        await self.call(request, cri.StopContainerResponse)

    async def remove(self, container_id: str) -> None:
        await self.call(cri.RemoveContainerRequest(container_id=container_id), cri.RemoveContainerResponse)

    async def status(self, container_id: str) -> cri.ContainerStatus:
        request = cri.ContainerStatusRequest(container_id=container_id)
        return (await self.call(request, cri.ContainerStatusResponse)).status

    async def details(self, container_id: str) -> Mapping[str, str]:
        """The verbose part of the container's status."""
        request = cri.ContainerStatusRequest(container_id=container_id, verbose=True)
        return (await self.call(request, cri.ContainerStatusResponse)).info

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Stop and remove, as when the pod was deleted."""
        await self.call(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id), cri.StopPodSandboxResponse)
        await self.call(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id), cri.RemovePodSandboxResponse)

    async def sandboxes(self, **filters: object) -> list[cri.PodSandbox]:
        request = cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(**filters))  # type: ignore[arg-type]
        return list((await self.call(request, cri.ListPodSandboxResponse)).items)

    async def containers(self, **filters: object) -> list[cri.Container]:
        request = cri.ListContainersRequest(filter=cri.ContainerFilter(**filters))  # type: ignore[arg-type]
        return list((await self.call(request, cri.ListContainersResponse)).containers)

    async def images(self, name: str = "") -> list[cri.Image]:
        request = cri.ListImagesRequest(filter=cri.ImageFilter(image=cri.ImageSpec(image=name)))
        return list((await self.call(request, cri.ListImagesResponse)).images)

    async def wait_until_exited(self, container_id: str, timeout_s: float = 60.0) -> cri.ContainerStatus:
        """Relists as the kubelet does, until the container has exited. Raises TimeoutError with its last status."""
        status = await self.status(container_id)
        try:
            async with asyncio.timeout(timeout_s):
                while status.state != cri.CONTAINER_EXITED:
                    await asyncio.sleep(0.2)
                    status = await self.status(container_id)
        except TimeoutError as error:
            raise TimeoutError(f"not exited after {timeout_s} s: {status}") from error
        return status

    async def wait_for_log(self, pod: PodOnNode, text: str, *, name: str = "main", timeout_s: float = 60.0) -> None:
        """Until the container's log holds this text. Raises TimeoutError with the log."""
        try:
            async with asyncio.timeout(timeout_s):
                while text not in "".join(read_log(pod, name=name)):
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{text!r} is not in the log: {read_log(pod, name=name)}") from error


async def ask(channel: grpc.aio.Channel, path: str, request: bytes, timeout_s: float) -> bytes:
    """A unary call of raw bytes. Waits for a server that is not there yet."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    return await method(request, timeout=timeout_s, wait_for_ready=True)


def read_log(pod: PodOnNode, *, name: str = "main", attempt: int = 0, stream: str = "") -> list[str]:
    """The lines that a container wrote, as ``kubectl logs`` puts them together. stream: only this one's."""
    lines = [""]
    path = pod.log_directory / name / f"{attempt}.log"
    for entry in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:  # a carriage return ends no line
        _, entry_stream, tag, text = entry.split(b" ", 3)
        if stream in ("", entry_stream.decode()):
            lines[-1] += text.decode("utf-8", "surrogateescape")
            if tag == b"F":
                lines[-1] += "\n"
                lines.append("")
    return lines if lines[-1] else lines[:-1]
