"""Reading volumes on the node: what may be there, and what must not hurt."""

import os
import shutil
import socket
import threading
from itertools import count
from pathlib import Path

import pytest
from multicri_slurm.node_files import File, Limits, Reader, Tree, look, version_of, write_message

from multicri_proxy.api.adapter import Mount
from multicri_proxy.api.errors import InvalidArgument, ResourceExhausted, Unavailable

LIMITS = Limits(size_bytes=100_000, files=200)


def read(path: Path, limits: Limits = LIMITS) -> Tree:
    tree = Reader(limits).content(str(path))
    assert isinstance(tree, Tree)
    return tree


def test_files_directories_links_and_odd_names_come_as_they_are(tmp_path: Path) -> None:
    names = [b"plain", b"-rf", b"a\nb", b"q'\"`$(id)", "näh 漢字".encode(), b"\xff\xfe", b"n" * 255]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/run").write_text("x")
    (tmp_path / "inner/run").chmod(0o755)
    (tmp_path / "plain").chmod(0o640)
    (tmp_path / "inner/up").symlink_to("../plain")
    tree = read(tmp_path)
    assert {name: tree.files[name].content for name in names} == {name: name for name in names}
    assert (tree.files[b"inner/run"].mode, tree.files[b"plain"].mode) == (0o700, 0o600)
    assert (tree.directories, tree.links) == ([b"inner"], {b"inner/up": b"../plain"})


@pytest.mark.parametrize("target", ["/etc/shadow", "../x", "inner/../../x"])
def test_a_link_that_leads_out_is_refused_by_name(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(InvalidArgument, match="'link' leads out of the volume"):
        read(tmp_path)


def test_a_link_that_was_put_on_the_way_to_a_host_path_since_it_was_allowed_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "own/inner").mkdir(parents=True)
    (tmp_path / "own/inner/file").write_text("not for pods")
    (tmp_path / "allowed").symlink_to("own")
    for path in ("allowed/inner", "allowed/inner/file"):
        with pytest.raises(InvalidArgument, match="leads elsewhere than when it was allowed"):
            Reader(LIMITS).content(str(tmp_path / path), is_real=True)
    assert isinstance(Reader(LIMITS).content(str(tmp_path / "own/inner"), is_real=True), Tree)
    assert isinstance(Reader(LIMITS).content(str(tmp_path / "own/inner/file"), is_real=True), File)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def test_pipes_sockets_and_devices_are_refused_without_waiting_for_them(tmp_path: Path) -> None:
    for make in (
        os.mkfifo,
        make_socket,
        lambda path: os.mknod(path, 0o20666, os.makedev(1, 5)),
    ):
        path = tmp_path / "odd"
        try:
            make(path)
        except PermissionError:
            pytest.skip("only root can make a device")
        with pytest.raises(InvalidArgument, match="'odd' is no regular file"):
            read(tmp_path)
        with pytest.raises(InvalidArgument, match="odd' is no regular file"):
            Reader(LIMITS).content(str(path))
        path.unlink()


def test_a_file_without_end_is_read_no_further_than_allowed(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ResourceExhausted, match=r"larger than slurm\.volume_bytes"):
        read(tmp_path)


def test_the_limits_are_for_all_volumes_of_a_container_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * 60)
    reader = Reader(Limits(size_bytes=100, files=200))
    reader.content(str(tmp_path / "a"))
    with pytest.raises(ResourceExhausted, match="volume_bytes"):
        reader.content(str(tmp_path / "b"))
    with pytest.raises(ResourceExhausted, match="volume_files"):
        read(tmp_path, Limits(size_bytes=1000, files=3))


def test_directories_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "/".join("d" * 60)).mkdir(parents=True)
    with pytest.raises(InvalidArgument, match="nested"):
        read(tmp_path)


def test_a_volume_that_is_gone_can_be_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        Reader(LIMITS).content(str(tmp_path / "gone"))
    with pytest.raises(Unavailable, match="published nothing"):
        Reader(LIMITS).published(str(tmp_path))


def test_a_volume_that_is_published_while_it_is_read_comes_in_one_piece(tmp_path: Path) -> None:
    """The kubelet's order: new directory, link exchanged, old directory deleted."""
    stop = threading.Event()
    first = threading.Event()

    def publish() -> None:
        before: Path | None = None
        for number in count():
            version = tmp_path / f"..v{number}"
            version.mkdir()
            for name in range(5):
                (version / f"{name}").write_text(f"{number}")
            (tmp_path / "..data_tmp").symlink_to(version.name)
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
            if before:
                shutil.rmtree(before)
            before = version
            first.set()
            if stop.wait(0.002):
                return

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        first.wait()
        versions = set()
        while len(versions) < 20:
            try:
                tree = Reader(LIMITS).published(str(tmp_path))
            except Unavailable as error:  # as the kubelet never is
                assert "faster than it can be read" in str(error)
                continue
            [content] = {file.content for file in tree.files.values()}
            assert len(tree.files) == 5
            assert tree.version == f"..v{content.decode()}"
            versions.add(content)
    finally:
        stop.set()
        publisher.join()


@pytest.mark.parametrize("target", ["/etc", "..", "x", "../..x"])
def test_a_link_to_something_else_is_no_version(tmp_path: Path, target: str) -> None:
    (tmp_path / "..data").symlink_to(target)
    with pytest.raises(Unavailable, match="does not lead to a version"):
        version_of(str(tmp_path))


def test_a_message_is_written_to_the_kubelets_file_and_nowhere_else(tmp_path: Path) -> None:
    file, link, fifo = tmp_path / "file", tmp_path / "link", tmp_path / "fifo"
    file.write_text("before, and longer")
    link.symlink_to(file)
    os.mkfifo(fifo)
    write_message(str(file), b"bye")
    for path in (link, fifo, tmp_path / "gone"):
        write_message(str(path), b"not this")
    assert file.read_text() == "bye"
    assert not (tmp_path / "gone").exists()


def test_what_the_paths_do_not_tell_is_found_on_the_node(tmp_path: Path) -> None:
    (tmp_path / "volumes/kubernetes.io~nfs/pv").mkdir(parents=True)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    mounts = [Mount(container_path="/x", host_path=str(tmp_path / "link"), readonly=True)]
    found = look(mounts, str(tmp_path / "pod"))
    assert found.real_paths == {str(tmp_path / "link"): str(tmp_path / "real")}
    assert look([], str(tmp_path)).plugins == {"pv": "kubernetes.io~nfs"}


def test_a_file_is_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "file").chmod(0o444)
    assert Reader(LIMITS).content(str(tmp_path / "file")) == File(content=b"content", mode=0o400)
