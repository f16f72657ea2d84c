"""``multicri-proxy images pull`` as its user sees it, against an adapter that has images on the node."""

import asyncio
import io
import os
import pty
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from runtime.doubles import Cluster, MemoryAdapter, MemoryImages, Node

from multicri_proxy.admin import AdminServer
from multicri_proxy.api.ids import ImageId, ImageRef
from multicri_proxy.api.image import Build, Image, RegistryAuth, Stored
from multicri_proxy.images.answer import images_command
from multicri_proxy.images.progress import Progress, bar
from multicri_proxy.images.table import table

NAME = "multicri/docker.ghcr.io/acme/tool:1"


class Building(MemoryAdapter):
    """Has half of each image, until the gate of bring_image opens."""

    async def bring_image(self, image: Image, namespace: str) -> None:
        await self._cluster.enter("bring_image", image.id)

    def stored(self) -> Stored:
        return Stored(directory=Path("/"))

    def builds(self, image_id: ImageId) -> Sequence[Build]:
        return (Build(place="/images", state="building", done_bytes=500_000, of_bytes=1_000_000),)

    async def forget_image(self, image: Image) -> None:
        pass


class Remembering(MemoryImages):
    """Knows what it was pulled with."""

    def __init__(self) -> None:
        super().__init__()
        self.pulled_with: list[tuple[RegistryAuth | None, str]] = []

    async def pull(
        self, name: ImageRef, *, auth: RegistryAuth | None = None, namespace: str = "", plain: bool = False
    ) -> Image:
        self.pulled_with.append((auth, namespace))
        return await super().pull(name, auth=auth, namespace=namespace, plain=plain)

    def auth_in(self, docker_config: bytes, name: ImageRef) -> RegistryAuth | None:
        return RegistryAuth(identity_token=docker_config.decode()) if docker_config != b"{}" else None


class Daemon:
    def __init__(self, directory: Path) -> None:
        self.node = Node(directory)
        self.node.make_adapter = Building
        self.images = self.node.images = Remembering()
        self.socket_path = directory / "admin.sock"

    @property
    def cluster(self) -> Cluster:
        return self.node.cluster

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.node.running() as runtime:
            self.images.pulled_with.clear()
            async with AdminServer(self.socket_path, {"images": images_command(self.images, runtime)}):
                yield

    async def command(self, *words: str, stdin: bytes = b"", stdout: int | None = None) -> asyncio.subprocess.Process:
        argv = [sys.executable, "-m", "multicri_proxy", "images", *words, "--admin-socket", str(self.socket_path)]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin
        process.stdin.write(stdin)
        process.stdin.close()
        return process


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(tmp_path)
    async with daemon.running():
        yield daemon


async def test_without_a_terminal_there_is_a_line_for_each_piece_of_news(daemon: Daemon) -> None:
    gate = daemon.cluster.gates["bring_image"] = asyncio.Event()
    process = await daemon.command("pull", NAME)
    assert process.stdout
    assert await process.stdout.readline() == f"asking what {NAME} means\n".encode()
    assert await process.stdout.readline() == (b"building in /images: [############------------]  50%  500kB of 1MB\n")
    gate.set()
    rest, errors = await process.communicate()
    assert rest.splitlines()[-1].startswith(f"pulled {NAME}: sha256:".encode())
    assert b"\r" not in rest
    assert (process.returncode, errors) == (0, b"")


async def test_on_a_terminal_there_is_a_bar_that_is_drawn_over(daemon: Daemon) -> None:
    gate = daemon.cluster.gates["bring_image"] = asyncio.Event()
    ours, theirs = pty.openpty()
    process = await daemon.command("pull", NAME, stdout=theirs)
    os.close(theirs)
    seen = b""
    while b"50%" not in seen:
        seen += await asyncio.to_thread(os.read, ours, 4096)
    assert b"\r\x1b[K[############------------]  50%  500kB of 1MB  building in" in seen
    gate.set()
    while b"pulled" not in seen:
        seen += await asyncio.to_thread(os.read, ours, 4096)
    assert b"\r\x1b[Kpulled " in seen
    os.close(ours)
    assert await process.wait() == 0


async def test_who_leaves_a_pull_leaves_it_to_the_next_one(daemon: Daemon) -> None:
    daemon.cluster.gates["bring_image"] = asyncio.Event()
    process = await daemon.command("pull", NAME)
    await daemon.cluster.called("bring_image")
    process.kill()
    await process.communicate()
    daemon.cluster.gates.pop("bring_image").set()
    again = await daemon.command("pull", NAME)
    assert b"pulled" in (await again.communicate())[0]


async def test_credentials_come_from_a_file_or_from_stdin(daemon: Daemon, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for text, said in (("token-of-mine", b"asking"), ("{}", b"the docker config has nothing for its registry")):
        config.write_text(text)
        done = await (await daemon.command("pull", NAME, "--docker-config", str(config))).communicate()
        assert done[0].startswith(said)
    words = ("pull", NAME, "--namespace", "physics", "--username", "robot", "--password-stdin")
    await (await daemon.command(*words, stdin=b"s3cret word\n")).communicate()
    assert daemon.images.pulled_with == [
        (RegistryAuth(identity_token="token-of-mine"), ""),
        (None, ""),
        (RegistryAuth(username="robot", password="s3cret word"), "physics"),
    ]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--username", "robot"), b"--username and --password-stdin: must be given together"),
        (("--password-stdin",), b"--username and --password-stdin: must be given together"),
        (("--docker-config", "/nowhere"), b"--docker-config: /nowhere cannot be read"),
        (("--docker-config", "/x", "--username", "r"), b"must not be given together with --username"),
    ],
)
async def test_options_that_cannot_be_are_refused_by_name(
    daemon: Daemon, words: tuple[str, ...], reason: bytes
) -> None:
    process = await daemon.command("pull", NAME, *words)
    assert reason in (await process.communicate())[1]
    assert process.returncode == 1
    assert daemon.images.pulled_with == []


@pytest.mark.parametrize(
    ("done", "of", "shown"),
    [
        (0, 10, "[------------------------]   0%  0B of 10B"),
        (10, 10, "[########################] 100%  10B of 10B"),
        (20, 10, "[########################] 100%  20B of 10B"),
        (1500, 0, "1.5kB"),
    ],
)
def test_a_bar(done: int, of: int, shown: str) -> None:
    assert bar(done, of) == shown


def test_what_somebody_else_wrote_moves_no_cursor() -> None:
    stream = io.StringIO()
    Progress(stream).show({"progress": "asking \x1b[2J\r"})
    assert stream.getvalue() == "asking ?[2J?\n"


def test_the_table_tells_how_far_a_build_is() -> None:
    builds = [
        {"place": "a", "state": "built"},
        {"place": "b", "state": "building", "done_bytes": 1, "of_bytes": 4},
    ]
    image = {"id": "sha256:0", "names": ["x"], "digests": [], "size_bytes": 1, "pinned": False, "containers": 0}
    assert "1/2, building 25%" in table([{**image, "builds": builds}])
