"""As much of an API server and a kubelet as kubectl needs: one pod, whose streams are passed through byte for byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit

from multicri_proxy.cri.v1 import runtime_pb2 as cri
from streaming.conftest import Streaming

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "default", "uid": "u"},
    "spec": {"containers": [{"name": "main", "image": "i", "stdin": True, "ports": [{"containerPort": 80}]}]},
    "status": {"phase": "Running"},
}
ANSWERS = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get"]},
        ],
    },
    "/api/v1/namespaces/default/pods/web": POD,
}


@asynccontextmanager
async def api_server(streaming: Streaming) -> AsyncIterator[str]:
    """Its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].decode()
                parts = urlsplit(target)
                if b"\nupgrade:" in head.lower():
                    streaming.upgrades.append(head)
                    url = await stream_url(streaming, parts.path.rpartition("/")[2], parse_qs(parts.query))
                    await passed_on(url, head.replace(target.encode(), urlsplit(url).path.encode(), 1), reader, writer)
                    break
                answer = ANSWERS.get(parts.path)
                body = json.dumps(answer or {"kind": "Status", "status": "Failure", "code": 404}).encode()
                status = "200 OK" if answer else "404 Not Found"
                head_lines = (
                    f"HTTP/1.1 {status}",
                    "Content-Type: application/json",
                    f"Content-Length: {len(body)}",
                    "",
                    "",
                )
                writer.write("\r\n".join(head_lines).encode() + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def stream_url(streaming: Streaming, what: str, query: dict[str, list[str]]) -> str:
    """What the kubelet does with such a request."""
    runtime = streaming.client.runtime
    wanted = {name: query.get(name, [""])[0] in ("1", "true") for name in ("stdin", "stdout", "stderr", "tty")}
    if what == "exec":
        request = cri.ExecRequest(container_id=streaming.container_id, cmd=query["command"], **wanted)
        return (await runtime.exec(request)).url
    if what == "attach":
        attach = cri.AttachRequest(container_id=streaming.container_id, **wanted)
        return (await runtime.attach(attach)).url
    return (await runtime.port_forward(cri.PortForwardRequest(pod_sandbox_id=streaming.sandbox_id))).url


async def passed_on(url: str, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    parts = urlsplit(url)
    to_reader, to_writer = await asyncio.open_connection(parts.hostname, parts.port)
    to_writer.write(head)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))
