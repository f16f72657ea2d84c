"""Images built on the node, by the Charliecloud that it has, from a real registry."""

import asyncio
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from multicri_images.building import Job
from multicri_images.packing import environment_script
from pool_bench import OpenPool
from testbed import Testbed
from testbed.door import PASSWORD, USER, Door
from testbed.images import BUSYBOX_IMAGE

from multicri_proxy.api.errors import FailedPrecondition, MulticriError, PermissionDenied, ResourceExhausted
from multicri_proxy.api.ids import ImageRef
from multicri_proxy.api.image import Image, ImageFile, RegistryAuth

pytestmark = pytest.mark.testbed

SCIENCE = RegistryAuth(username=USER, password=PASSWORD)
RUNTIMES = ("apptainer", "charliecloud")


@pytest.fixture
def directory(bed: Testbed) -> Iterator[Path]:
    """Which nobody may get to: pytest's own directories are closed."""
    made = bed.settings.run / "images-of-the-node"
    yield made
    subprocess.run(["rm", "-rf", made], check=True)


def name_at(registry: str, image: str = "test/tool:1.0") -> ImageRef:
    return ImageRef(f"multicri/docker-repository.{registry}/{image}")


def files_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.name.endswith(".lock"))


def builds() -> list[str]:
    """Command lines of builds that run."""
    found = subprocess.run(["ps", "-eo", "stat=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=1) for line in found.splitlines()]
    return [words for stat, words in lines if not stat.startswith("Z") and "multicri_images.building" in words]


@contextmanager
def held(directory: Path, image: Image) -> Iterator[None]:
    """No build of the image begins."""
    directory.mkdir(mode=0o711, exist_ok=True)
    lock = os.open(directory / f"{image.id.removeprefix('sha256:')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


async def eventually(question: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not question():
            await asyncio.sleep(0.02)


def unpacked(file: ImageFile, path: str) -> str:
    return subprocess.run(["unsquashfs", "-cat", file.path, path], capture_output=True, text=True, check=True).stdout


async def test_an_image_is_built_once_for_all_and_kept_through_a_restart(
    bed: Testbed, open_pool: OpenPool, directory: Path
) -> None:
    async with open_pool(directory=str(directory)) as images:
        image = await images.pull(name_at(bed.registry.address))
        wanted = [images.file(image, f"namespace-{n % 3}", RUNTIMES[n % 2]) for n in range(20)]
        made = set(await asyncio.gather(*wanted))
        [file] = made
    assert file.suffix == ".squashfs"
    content = Path(file.path).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size_bytes, file.sha256)
    assert json.loads(file.config)["config"]["WorkingDir"] == "/var/tool"
    assert "export TOOL='of the image'" in unpacked(file, ".singularity.d/env/10-docker2singularity.sh")
    status = Path(file.path).stat()
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600)
    assert len(files_in(directory)) == 3, "the image, what is known of it, and an empty work directory"
    async with open_pool(directory=str(directory)) as images:
        assert await images.file(image, "default", "apptainer") == file
        assert Path(file.path).stat() == status
        await eventually(lambda: images.stored() is not None)
        stored = images.stored()
        assert stored is not None
        assert (stored.directory, stored.inodes_used) == (directory, 2)
        assert stored.sizes_bytes.keys() == {image.id}
        assert file.size_bytes <= stored.used_bytes < file.size_bytes + 64 * 1024
        await images.remove(image.id)
        assert files_in(directory) == ["builds"]
        assert images.stored() is None


async def test_another_namespaces_private_image_is_refused_until_it_is_pulled_with_own_credentials(
    private: Door, open_pool: OpenPool, directory: Path
) -> None:
    async with open_pool(directory=str(directory)) as images:
        image = await images.pull(name_at(private.name), auth=SCIENCE, namespace="physics")
        file = await images.file(image, "physics", "charliecloud")
        with pytest.raises(PermissionDenied, match="pull it for 'biology' too, with imagePullSecrets"):
            await images.file(image, "biology", "charliecloud")
        await images.pull(name_at(private.name), auth=SCIENCE, namespace="biology")
        assert await images.file(image, "biology", "charliecloud") == file
    assert PASSWORD.encode() not in b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def test_a_daemon_that_is_killed_takes_its_build_along_and_the_next_one_builds_anew(
    bed: Testbed, open_pool: OpenPool, directory: Path
) -> None:
    async with open_pool(directory=str(directory)) as images:
        image = await images.pull(name_at(bed.registry.address))
        name = image.id.removeprefix("sha256:")
        half = directory / "builds" / name / "image"
        job = Job(
            directory=str(directory),
            name=name,
            suffix=".squashfs",
            commands=[["sh", "-c", f"mkdir {half}; echo half > {half}/file; sleep 600 & wait"]],
            environment={},
            files={},
            packed=True,
            user=("nobody", 65534, 65534),
            timeout_s=600,
        )
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "multicri_images.building"], stdin=subprocess.PIPE, process_group=0
        ) as child:
            assert child.stdin is not None
            child.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
            child.stdin.flush()
            await eventually((half / "file").exists)
            second = asyncio.ensure_future(images.file(image, "default", "apptainer"))
            await eventually(lambda: len(builds()) == 2)
            child.stdin.close()  # which is all that a child sees of a daemon that is killed
            assert (await second).size_bytes > 100_000
            assert child.wait(60) == -signal.SIGKILL
    assert len(files_in(directory)) == 3


async def test_a_cancelled_call_leaves_a_build_that_the_next_one_joins_and_the_daemons_end_ends_it(
    bed: Testbed, open_pool: OpenPool, directory: Path
) -> None:
    async with open_pool(directory=str(directory)) as images:
        image = await images.pull(name_at(bed.registry.address))
        with held(directory, image):
            first = asyncio.ensure_future(images.file(image, "default", "apptainer"))
            await eventually(lambda: len(builds()) == 1)
            first.cancel()
            await asyncio.wait({first})
            second = asyncio.ensure_future(images.file(image, "default", "apptainer"))
            await asyncio.sleep(0)
            assert len(builds()) == 1
        await second
        other = await images.pull(name_at(bed.registry.address, BUSYBOX_IMAGE.name))
        lock = held(directory, other)
        lock.__enter__()
        third = asyncio.ensure_future(images.file(other, "default", "apptainer"))
        await eventually(lambda: len(builds()) == 1)
    await eventually(lambda: not builds())
    assert third.cancelled() or isinstance(third.exception(), MulticriError | asyncio.CancelledError)
    lock.__exit__(None, None, None)


async def test_a_failed_build_says_why_and_leaves_nothing(bed: Testbed, open_pool: OpenPool, directory: Path) -> None:
    async with open_pool(directory=str(directory), resolve="never") as images:
        missing = await images.pull(name_at(bed.registry.address, "test/nothing:1"))
        with pytest.raises(MulticriError, match="charliecloud on the node: its registry has no such image"):
            await images.file(missing, "default", "charliecloud")
        late = await images.pull(name_at(bed.registry.address))
        with held(directory, late):
            pass
    async with open_pool(directory=str(directory), build_timeout_s=0.2) as images:
        with held(directory, late), pytest.raises(MulticriError, match="it took too long"):
            await images.file(late, "default", "charliecloud")
    assert files_in(directory) == ["builds"]


async def test_a_full_disk_of_the_node_is_said_so_and_nothing_of_the_build_stays(
    bed: Testbed, open_pool: OpenPool, directory: Path
) -> None:
    directory.mkdir(mode=0o711)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k,mode=0711", "tmpfs", directory], check=True)
    try:
        async with open_pool(directory=str(directory)) as images:
            image = await images.pull(name_at(bed.registry.address))
            with pytest.raises(ResourceExhausted, match="no space is left"):
                await images.file(image, "default", "apptainer")
        assert files_in(directory) == ["builds"]
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.parametrize("inner", ["", "/inner"])
async def test_a_directory_that_builders_cannot_enter_is_refused_by_name(
    bed: Testbed, open_pool: OpenPool, directory: Path, inner: str
) -> None:
    directory.mkdir(mode=0o700)
    async with open_pool(directory=f"{directory}{inner}") as images:
        image = await images.pull(name_at(bed.registry.address))
        with pytest.raises(FailedPrecondition, match=rf"nobody may not enter {directory}: .*chmod o\+x"):
            await images.file(image, "default", "apptainer")


async def test_what_is_left_of_an_image_that_nobody_knows_is_removed(
    bed: Testbed, open_pool: OpenPool, directory: Path
) -> None:
    directory.mkdir(mode=0o711)
    left = directory / f"{'a' * 64}.squashfs"
    left.touch()
    async with open_pool(directory=str(directory)) as images:
        image = await images.pull(name_at(bed.registry.address))
        file = await images.file(image, "default", "apptainer")
        await eventually(lambda: not left.exists())
        assert Path(file.path).exists()


def test_an_images_variables_are_words_for_a_shell_and_those_that_are_none_are_left_out() -> None:
    wild = "$(exit 1) `x` 'q'\n\\"
    script = environment_script(["PATH=/usr/bin:/a b", f"WILD={wild}", "KEPT=no", "1BAD=x", "HOME=/root", "a-b=c"])
    argv = ["/usr/bin/env", "-i", "KEPT=yes", "/bin/sh", "-c", script.decode() + "exec env -0"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    variables = dict(line.split("=", 1) for line in shown.split("\0")[:-1])
    del variables["PWD"]
    assert variables == {"PATH": "/usr/bin:/a b", "WILD": wild, "KEPT": "yes"}
