"""Mount points in an image's directory, over the cluster's real SFTP."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest
from multicri_slurm.files import Files
from multicri_slurm.mount_points import make_mount_point
from multicri_slurm.sftp_files import SftpFiles
from testbed import Testbed

from multicri_proxy.api.errors import FailedPrecondition

pytestmark = pytest.mark.testbed


@pytest.fixture
async def files(bed: Testbed) -> AsyncIterator[Files]:
    user = bed.cluster.user("bob")
    connecting = asyncssh.connect(
        bed.cluster.host, username="bob", client_keys=[str(user.key)], known_hosts=str(bed.cluster.known_hosts)
    )
    async with connecting as connection, connection.start_sftp_client() as client:
        yield SftpFiles(client)


@pytest.fixture
def image(bed: Testbed) -> Path:
    """An image's directory, as this machine sees it, with what real ones have and what bad ones may have."""
    make = """
        rm -rf image && mkdir -p image/run image/var image/etc/app image/usr/lib && cd image && : > etc/hosts
        ln -s /run var/run; ln -s usr/lib lib; ln -s / root; ln -s ../../../../.. out; ln -s loop loop; ln -s gone dead
    """
    bed.cluster.run("login", ["sh", "-c", f"cd && {make}"], user="bob", check=True)
    return bed.cluster.user("bob").home / "image"


@pytest.mark.parametrize(
    ("path", "directory", "found"),
    [
        ("/var/run/secrets/x", True, "/run/secrets/x"),
        ("/etc/app/a.conf", False, "/etc/app/a.conf"),
        ("/etc/hosts", False, "/etc/hosts"),
        ("/lib/a", True, "/usr/lib/a"),
        ("/new/deep/place", False, "/new/deep/place"),
        ("/out/bob/x", True, "/bob/x"),
        ("/root/etc/app", True, "/etc/app"),
        ("/dead/x", True, "/gone/x"),
    ],
)
async def test_links_are_followed_as_inside_of_the_container(
    files: Files, image: Path, path: str, directory: bool, found: str
) -> None:
    for _ in range(2):  # the second time all of it is there
        assert await make_mount_point(files, "/home/bob/image", path, directory=directory) == found
        made = Path(f"{image}{found}")
        assert made.is_dir() if directory else made.is_file()


@pytest.mark.parametrize(
    ("path", "directory", "reason"),
    [
        ("/loop/x", True, "is a link"),
        ("/etc/hosts", True, "a file in its place"),
        ("/etc/app", False, "a directory in its place"),
        ("/etc/hosts/x", False, "a file in its place"),
    ],
)
async def test_what_is_in_the_way_is_told(files: Files, image: Path, path: str, directory: bool, reason: str) -> None:
    with pytest.raises(FailedPrecondition, match=reason):
        await make_mount_point(files, "/home/bob/image", path, directory=directory)
