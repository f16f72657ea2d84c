"""A directory whose other user is not trusted: what its links, pipes and modes may do to us, which is nothing."""

import os
import subprocess
from pathlib import Path

import pytest
from multicri_slurm.shared_files import SharedFiles

from multicri_proxy.api.errors import FailedPrecondition, NotFound

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="to use files as somebody else takes root")

UID, GID = 2001, 2002
THERE = "/home/alice"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """What the account owns, in a place that it can get to."""
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == 0 and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    here = tmp_path / "shared"
    here.mkdir()
    os.chown(here, UID, GID)
    return here


@pytest.fixture
def files(here: Path) -> SharedFiles:
    return SharedFiles(here=str(here), there=THERE, uid=UID, gid=GID, name="alice@rest", wait_s=10)


async def test_what_is_made_is_the_accounts_alone(files: SharedFiles, here: Path) -> None:
    await files.make_all(f"{THERE}/a/b")
    await files.write_all(f"{THERE}/a/b", {"f": (b"x", 0o700)})
    await files.make_link(b"f", f"{THERE}/a/b/l".encode())
    await files.replace(f"{THERE}/a/r", b"y")
    found = {str(path.relative_to(here)): path.lstat() for path in here.rglob("*")}
    assert set(found) == {"a", "a/b", "a/b/f", "a/b/l", "a/r"}
    assert {(stat.st_uid, stat.st_gid) for stat in found.values()} == {(UID, GID)}
    assert [found[name].st_mode & 0o777 for name in ("a", "a/b", "a/b/f", "a/r")] == [0o700, 0o700, 0o700, 0o600]
    assert await files.entries(f"{THERE}/a".encode()) == {b"b": found["a/b"].st_mode, b"r": found["a/r"].st_mode}
    (here.parent / "ours").write_text("")  # this thread is who it was
    assert (here.parent / "ours").stat().st_uid == 0


async def test_a_link_in_place_of_a_file_or_of_a_directory_is_not_followed(files: SharedFiles, here: Path) -> None:
    (here / "stdout").symlink_to("/etc/passwd")
    (here / "environ").symlink_to("/proc/self/environ")
    (here / "etc").symlink_to("/etc")
    for name in ("stdout", "environ", "etc/passwd"):
        assert await files.read(f"{THERE}/{name}", 0, 100) is None
        assert await files.sizes([f"{THERE}/{name}"]) == {}
        with pytest.raises(FailedPrecondition, match="something is in the way"):
            await files.write(f"{THERE}/{name}".encode(), b"x", 0o600)
    with pytest.raises(FailedPrecondition):
        await files.remove_all(f"{THERE}/etc/apt")
    await files.remove_all(f"{THERE}/etc")
    assert Path("/etc/passwd").exists()
    assert not (here / "etc").is_symlink()


async def test_a_pipe_in_place_of_a_file_holds_nobody_up(files: SharedFiles, here: Path) -> None:
    os.mkfifo(here / "stdout", 0o666)
    assert await files.read(f"{THERE}/stdout", 0, 100) is None


async def test_what_the_account_may_not_read_is_not_read_and_paths_lead_nowhere_else(
    files: SharedFiles, here: Path
) -> None:
    (here / "roots").write_text("x")
    (here / "roots").chmod(0o600)
    with pytest.raises(FailedPrecondition, match=f"uid {UID} may not"):
        await files.read(f"{THERE}/roots", 0, 1)
    for path in ("/etc/passwd", f"{THERE}/../x", f"{THERE}x/y"):
        assert await files.read(path, 0, 1) is None
        with pytest.raises(NotFound, match="directory that the cluster shares"):
            await files.write(path.encode(), b"x", 0o600)


async def test_a_directory_that_forbids_it_is_removed_all_the_same(files: SharedFiles, here: Path) -> None:
    await files.make_all(f"{THERE}/a/b/c")
    await files.write(f"{THERE}/a/b/c/f".encode(), b"x", 0o400)
    for path in (here / "a/b/c", here / "a/b"):
        path.chmod(0)
    await files.remove_all(f"{THERE}/a", f"{THERE}/gone")
    assert list(here.iterdir()) == []


async def test_directories_deeper_than_any_path_are_removed(files: SharedFiles, here: Path) -> None:
    program = "n=$(printf %0100d 0); mkdir a; cd a; for i in $(seq 150); do mkdir $n; cd -P $n; done; : > f"
    subprocess.run(["setpriv", f"--reuid={UID}", "--clear-groups", "bash", "-c", program], cwd=here, check=True)
    await files.remove_all(f"{THERE}/a")
    assert list(here.iterdir()) == []


async def test_a_piece_is_read_from_its_offset_and_the_rest_of_a_file_is_written_over(
    files: SharedFiles, here: Path
) -> None:
    path = f"{THERE}/f"
    await files.write(path.encode(), b"0123456789" * 100_000, 0o600)
    assert await files.read(path, 999_990, 100) == b"0123456789"
    assert await files.read(path, 1_000_000, 100) == b""
    await files.write(path.encode(), b"short", 0o600)
    assert await files.sizes([path, f"{THERE}/none"]) == {path: 5}
