"""More ways into the bed's registry: with a password, without TLS, over a line that breaks."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from testbed import Testbed
from testbed.programs import Daemon

USER, PASSWORD = "robot", "s3cret"
_HTPASSWD = f"{USER}:$2b$04$2hpArJUV2ilhAK7CXMo.WOLq7sXyD/6P0tRNWA6ZpOKUjW0tp1SF6\n"


@contextlib.contextmanager
def registry(bed: Testbed, directory: Path, port: int, *, private: bool = False, tls: bool = True) -> Iterator[str]:
    """docker-registry with the same images behind another port; gives its name with the port."""
    directory.mkdir(exist_ok=True)
    config = json.loads((bed.settings.run / "registry/config.yml").read_text())
    config["http"]["addr"] = f"{bed.registry.address}:{port}"
    if not tls:
        del config["http"]["tls"]
    if private:
        (directory / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    (directory / "config.yml").write_text(json.dumps(config))
    daemon = Daemon(
        name=f"docker-registry on {port}",
        argv=("docker-registry", "serve", str(directory / "config.yml")),
        pid_file=directory / "pid",
        log=directory / "log",
    )
    daemon.start()
    try:
        daemon.wait_ready("listens", lambda: _listens(bed.registry.address, port), timeout_s=60)
        yield f"{bed.registry.name}:{port}"
    finally:
        daemon.stop()


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


@contextlib.asynccontextmanager
async def breaking_line(bed: Testbed, port: int, after_bytes: int) -> AsyncIterator[str]:
    """A line to the registry that breaks whenever so many bytes have come from it; gives its name with the port."""
    address = bed.registry.address

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
        copied = 0
        while (piece := await reader.read(4096)) and (limit is None or copied < limit):
            copied += len(piece)
            writer.write(piece)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_registry, to_registry = await asyncio.open_connection(address, 443)
        ways = {
            asyncio.ensure_future(copy(reader, to_registry, None)),
            asyncio.ensure_future(copy(from_registry, writer, after_bytes)),
        }
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()
        to_registry.close()

    async with await asyncio.start_server(serve, address, port):
        yield f"{bed.registry.name}:{port}"


@contextlib.contextmanager
def poisoned(bed: Testbed) -> Iterator[None]:
    """The registry sends another byte in each of its layers."""
    blobs = (bed.settings.run / "registry/storage/docker/registry/v2/blobs/sha256").glob("*/*/data")
    layers = {blob: blob.read_bytes() for blob in blobs if blob.stat().st_size > 100_000}
    assert layers
    try:
        for blob, content in layers.items():
            middle = len(content) // 2
            blob.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        yield
    finally:
        for blob, content in layers.items():
            blob.write_bytes(content)
