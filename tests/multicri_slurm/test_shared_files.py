"""A directory whose other user is not trusted: what its links, pipes and modes may do to us, which is nothing."""

import errno
import fcntl
import os
import subprocess
import time
from pathlib import Path

import pytest
from multicri_slurm.shared_files import SharedFiles
from multicri_slurm.shared_images import use_image
from multicri_slurm.shared_steps import SharedSteps

from multicri_proxy.api.errors import FailedPrecondition, NotFound, Unavailable
from multicri_proxy.api.ids import JobId

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


async def test_no_locks_on_a_mount_are_told_with_what_to_do(files: SharedFiles) -> None:
    def work() -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with pytest.raises(FailedPrecondition, match="shared must be mounted with locks"):
        await files.do(work)


# -- images ------------------------------------------------------------------------------------------------------------

IMAGES = f"{THERE}/images"
HOLDER = f"{THERE}/multi-cri/sandbox/container"


@pytest.fixture
def images(here: Path) -> Path:
    """One that was built: ``a.sif``, of 3 KiB."""
    images = here / "images"
    images.mkdir()
    for name, text in {"a.sif": "", ".a.lock": "", ".a.size": "3\n", ".a.used": ""}.items():
        (images / name).write_text(text)
    for path in (images, *images.iterdir()):
        os.chown(path, UID, GID)
    os.utime(images / ".a.used", (0, 0))
    return images


async def test_the_use_of_an_image_is_noted_as_the_scripts_in_the_cluster_note_it(
    files: SharedFiles, images: Path, here: Path
) -> None:
    for _ in range(2):  # a creation that is asked for again
        assert await use_image(files, IMAGES, "a.sif", HOLDER, 10) == 3072
    assert (images / ".a.uses/container").readlink() == Path(HOLDER)
    assert (here / "multi-cri/sandbox/container").is_dir()
    assert (images / ".a.used").stat().st_mtime > time.time() - 600
    assert {path.lstat().st_uid for path in images.rglob("*")} == {UID}


async def test_an_image_that_is_not_there_leaves_nothing(files: SharedFiles, images: Path) -> None:
    before = sorted(images.rglob("*"))
    assert await use_image(files, IMAGES, "b.sif", HOLDER, 10) is None
    assert await use_image(files, f"{THERE}/none", "a.sif", HOLDER, 10) is None
    assert sorted(images.rglob("*")) == before


async def test_an_image_of_somebody_elses_is_used_without_a_note(files: SharedFiles, images: Path) -> None:
    for path in (images, *images.iterdir()):
        os.chown(path, 0, 0)
    images.chmod(0o755)
    assert await use_image(files, IMAGES, "a.sif", HOLDER, 10) == 0
    assert not (images / ".a.uses").exists()


async def test_an_image_that_is_being_removed_is_waited_for(files: SharedFiles, images: Path) -> None:
    with (images / ".a.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match=r"images/a\.sif is being built or removed"):
            await use_image(files, IMAGES, "a.sif", HOLDER, 0)
        (images / "a.sif").unlink()
    assert await use_image(files, IMAGES, "a.sif", HOLDER, 10) is None


@pytest.mark.parametrize("text", ["", "x", "9" * 40, "-1"])
async def test_a_size_that_is_none_is_not_believed(files: SharedFiles, images: Path, text: str) -> None:
    (images / ".a.size").write_text(text)
    assert await use_image(files, IMAGES, "a.sif", HOLDER, 10) == 0


# -- steps -------------------------------------------------------------------------------------------------------------

ALLOCATION, CONTAINER = f"{THERE}/allocation", f"{THERE}/c"


@pytest.fixture
async def steps(files: SharedFiles) -> SharedSteps:
    """Of an allocation and a container that was staged."""
    places = (f"{ALLOCATION}/{place}" for place in ("requests", "running", "withdrawn", "signals"))
    await files.make_all(ALLOCATION, *places, CONTAINER)
    return SharedSteps(files)


async def test_a_step_is_asked_for_once_wherever_its_request_is(steps: SharedSteps, here: Path) -> None:
    request = here / "allocation/requests/c"
    assert not await steps.requested("find", ALLOCATION, CONTAINER)
    assert await steps.requested("submit", ALLOCATION, CONTAINER)
    assert request.stat().st_uid == UID
    request.rename(here / "allocation/running/c")
    assert await steps.requested("submit", ALLOCATION, CONTAINER)
    assert await steps.requested("find", ALLOCATION, CONTAINER)
    assert not request.exists()


async def test_a_step_is_neither_asked_for_when_it_was_cancelled_nor_when_the_allocation_is_over(
    steps: SharedSteps, here: Path
) -> None:
    (here / "allocation/requests").rename(here / "allocation/closed")
    with pytest.raises(FailedPrecondition, match="the pod's allocation is over"):
        await steps.requested("submit", ALLOCATION, CONTAINER)
    assert not await steps.requested("cancel", ALLOCATION, CONTAINER)
    with pytest.raises(FailedPrecondition, match="was cancelled before it was started"):
        await steps.requested("submit", ALLOCATION, CONTAINER)
    with pytest.raises(NotFound, match="/gone is gone"):
        await steps.requested("submit", ALLOCATION, f"{THERE}/gone")


async def test_a_step_that_has_not_begun_is_taken_back_and_has_ended(steps: SharedSteps, here: Path) -> None:
    await steps.requested("submit", ALLOCATION, CONTAINER)
    await steps.signal("TERM", JobId(7), ALLOCATION, CONTAINER)
    assert (here / "allocation/withdrawn/c").exists()
    assert (here / "c/exit").read_text().startswith("code=137\nreason=Cancelled\nfinished_ns=")
    assert {"cancelled", "ended"} <= {path.name for path in (here / "c").iterdir()}
    before = (here / "c/exit").read_text()
    await steps.signal("USR1", JobId(7), ALLOCATION, CONTAINER)
    assert (here / "c/exit").read_text() == before
    assert list((here / "allocation/signals").iterdir()) == []


async def test_a_signal_for_a_step_that_runs_is_left_to_the_allocations_script(steps: SharedSteps, here: Path) -> None:
    (here / "allocation/running/c").touch()
    for name in ("TERM", "USR1", "CANCEL"):
        await steps.signal(name, JobId(7), ALLOCATION, CONTAINER)  # type: ignore[arg-type]
    assert {path.name for path in (here / "allocation/signals").iterdir()} == {"c.TERM", "c.USR1", "c.CANCEL"}
    assert not (here / "c/exit").exists()
