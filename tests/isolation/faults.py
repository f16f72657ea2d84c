"""What can go wrong around a multicri pod. Each is put right again at the end."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Literal

from testbed import Testbed
from testbed.programs import run

HANGING_APPTAINER = """\
#!/bin/sh
# Stands before the real apptainer in PATH: the build of one image never ends, unless somebody removes a file.
case "$*" in *{image}*) ;; *) exec /usr/bin/apptainer "$@" ;; esac
echo $$ > {directory}/building
while [ -e {directory}/building ]; do sleep 0.1; done
exit 1
"""


class HangingBuild:
    """The build in the cluster of one image. image: the one, of a name that no registry has."""

    image = "registry.test/test/never-ends:1.0"
    _directory = "/home/alice/isolation"

    def __init__(self, bed: Testbed) -> None:
        self._bed = bed
        self._building = bed.cluster.user("alice").home / "isolation/building"

    @contextmanager
    def installed(self) -> Iterator[None]:
        """For alice alone: bob is not to find an apptainer."""
        script = HANGING_APPTAINER.format(image=self.image, directory=self._directory)
        make = f"install -d -o alice {self._directory} && umask 077 && cat > $0 && chown alice $0 && chmod 700 $0"
        program = "/usr/local/bin/apptainer"
        self._bed.cluster.run("login", ["sh", "-c", make, program], stdin=script, check=True)
        try:
            yield
        finally:
            self._building.unlink(missing_ok=True)
            self._bed.cluster.run("login", ["rm", "-rf", program, self._directory], check=True)

    async def begun(self) -> None:
        async with asyncio.timeout(60):
            while not self._building.exists():
                await asyncio.sleep(0.02)

    def end(self) -> None:
        """It fails then."""
        self._building.unlink()

    @property
    def ancestors(self) -> list[str]:
        """The process of the build and those above it, up to the sshd of its connection; as the host numbers them."""
        climb = "p=$(cat $0); while [ $p -gt 1 ]; do echo $p; p=$(sed 's/.*) . //; s/ .*//' /proc/$p/stat); done"
        found = self._bed.cluster.run("login", ["sh", "-c", climb, f"{self._directory}/building"], check=True)
        return found.stdout.split()


@contextmanager
def stopped(bed: Testbed, processes: list[str]) -> Iterator[None]:
    """Processes of the login host that live and do nothing: SIGSTOP, then SIGCONT."""
    bed.cluster.run("login", ["kill", "-STOP", *processes], check=True)
    try:
        yield
    finally:
        bed.cluster.run("login", ["kill", "-CONT", *processes], check=True)


def pid_of(bed: Testbed, daemon: Literal["sshd", "slurmctld"]) -> str:
    """The pid of a daemon of the login host, as that host numbers it."""
    return bed.cluster.run("login", ["cat", f"/run/{daemon}.pid"], check=True).stdout.strip()


@contextmanager
def cut_off(bed: Testbed) -> Iterator[None]:
    """The login host without a network."""
    bed.cluster.cut_link("login")
    try:
        yield
    finally:
        bed.cluster.mend_link("login")


SshHost = Literal["says nothing", "says its name and no more", "says anything, without end"]


@asynccontextmanager
async def ssh_host(says: SshHost) -> AsyncIterator[int]:
    """A host that takes connections, but is no sshd. Gives its port on 127.0.0.1."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if says != "says nothing":
                writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
            while says == "says anything, without end":
                writer.write(b"\x00\x00\x80\x00" + b"x" * 32_768)
                await writer.drain()
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[None]:
    """A file system of its own, of this size, in a directory."""
    directory.mkdir(exist_ok=True, mode=0o700)
    run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(directory)], timeout_s=10)
    try:
        yield
    finally:
        run(["umount", "--lazy", str(directory)], timeout_s=10)


@contextmanager
def real_disk(directory: Path, size_bytes: int) -> Iterator[None]:
    """A file system that has a device below it, as `frozen` needs."""
    directory.mkdir(exist_ok=True, mode=0o700)
    device = directory.with_suffix(".ext4")
    with device.open("wb") as file:
        file.truncate(size_bytes)
    run(["mkfs.ext4", "-q", "-m", "0", str(device)], timeout_s=30)
    run(["mount", "-o", "loop", str(device), str(directory)], timeout_s=10)
    try:
        yield
    finally:
        run(["umount", "--lazy", str(directory)], timeout_s=10)


@contextmanager
def frozen(disk: Path) -> Iterator[None]:
    """Whoever writes to it waits, and not even SIGKILL wakes him."""
    run(["fsfreeze", "--freeze", str(disk)], timeout_s=10)
    try:
        yield
    finally:
        run(["fsfreeze", "--unfreeze", str(disk)], timeout_s=10)


def fill(disk: Path) -> Path:
    """A file that takes all that is left of a disk."""
    file = disk / "fills-the-disk"
    with file.open("wb", buffering=0) as filling, suppress(OSError):
        while filling.write(bytes(4096)):
            pass
    return file


def fill_pipe(pipe: int) -> None:
    """Write until it takes no more. pipe: that does not block."""
    with suppress(BlockingIOError):
        while os.write(pipe, bytes(4096)):
            pass


def empty_pipe(pipe: int) -> None:
    with suppress(BlockingIOError):
        while os.read(pipe, 65_536):
            pass


@contextmanager
def locked(ledger: Path) -> Iterator[None]:
    """A ledger to which nobody else can write: for who wants to, its disk has become slow."""
    connection = sqlite3.connect(ledger, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()
