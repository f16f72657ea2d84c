"""Log files on a real disk."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.runtime.logfile import LogFile
from multicri_proxy.runtime.logs import Entry
from multicri_proxy.runtime.records import LogPosition
from runtime.test_logs import read_as_the_kubelet_does

OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR


def opened(directory: Path, position: LogPosition | None = None) -> LogFile:
    file = LogFile(str(directory), "main/0.log", position)
    file.open()
    return file


def line(text: bytes) -> list[Entry]:
    return [Entry(text, ends_line=True)]


def printed(path: Path) -> bytes:
    return read_as_the_kubelet_does(path.read_bytes())[b"stdout"]


def test_directories_are_made_and_the_file_is_for_owner_and_group(tmp_path: Path) -> None:
    opened(tmp_path / "pods" / "pod").close()
    assert (tmp_path / "pods" / "pod" / "main" / "0.log").stat().st_mode & 0o777 == 0o640


def test_both_streams_go_to_one_file(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.append(OUT, line(b"one"))
    file.append(ERR, line(b"two!"))
    file.close()
    text = read_as_the_kubelet_does((tmp_path / "main" / "0.log").read_bytes())
    assert text == {b"stdout": b"one\n", b"stderr": b"two!\n"}
    assert (file.read_bytes(OUT), file.read_bytes(ERR)) == (4, 5)


def test_what_was_written_after_the_position_is_cut_off(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.append(OUT, line(b"saved"))
    saved = file.position
    file.append(OUT, line(b"not saved"))
    file.close()
    again = opened(tmp_path, saved)
    assert printed(tmp_path / "main" / "0.log") == b"saved\n"
    assert again.read_bytes(OUT) == 6
    again.close()


def test_a_file_that_lost_its_end_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "main" / "0.log"
    path.parent.mkdir()
    path.write_bytes(b"of an earlier container\n")
    file = opened(tmp_path)
    file.append(OUT, line(b"saved"))
    file.end(OUT)
    saved = file.position
    file.close()
    os.truncate(path, path.stat().st_size - 3)
    again = opened(tmp_path, saved)
    assert path.read_bytes() == b"of an earlier container\n"
    assert again.read_bytes(OUT) == 0
    assert not again.ended(OUT)
    again.close()


def test_a_file_that_is_gone_is_made_anew_and_goes_on(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.append(OUT, line(b"one"))
    file.close()
    (tmp_path / "main" / "0.log").rename(tmp_path / "main" / "0.log.rotated")
    again = opened(tmp_path, file.position)
    again.append(OUT, line(b"two"))
    again.close()
    assert printed(tmp_path / "main" / "0.log") == b"two\n"
    assert again.read_bytes(OUT) == 8


def test_rotation_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "main" / "0.log"
    file = opened(tmp_path)
    file.append(OUT, line(b"one"))
    path.rename(tmp_path / "rotated")
    file.append(OUT, line(b"two"))
    file.reopen()
    file.append(OUT, line(b"three"))
    file.close()
    assert printed(tmp_path / "rotated") == b"one\ntwo\n"
    assert printed(path) == b"three\n"


@pytest.mark.parametrize("name", ["main", "main/0.log"])
def test_no_link_is_followed(tmp_path: Path, name: str) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    link = tmp_path / "logs" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(target if name == "main" else target / "file")
    with pytest.raises(OSError, match=r"0\.log|main"):
        opened(tmp_path / "logs")
    assert list(target.iterdir()) == []


def test_a_pipe_in_place_of_the_file_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "main").mkdir()
    os.mkfifo(tmp_path / "main" / "0.log")
    with pytest.raises(OSError, match=r"0\.log"):
        opened(tmp_path)


def test_a_write_that_fails_half_way_leaves_nothing_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "main" / "0.log"
    file = opened(tmp_path)
    file.append(OUT, line(b"one"))
    with _file_size_limit(path.stat().st_size + 20), pytest.raises(OSError, match="too large"):
        file.append(OUT, line(b"x" * 100))
    assert printed(path) == b"one\n"
    assert file.read_bytes(OUT) == 4
    file.open()
    file.append(OUT, line(b"two"))
    file.close()
    assert printed(path) == b"one\ntwo\n"


def test_nothing_is_appended_to_a_file_that_is_not_open(tmp_path: Path) -> None:
    file = LogFile(str(tmp_path), "main/0.log", None)
    with pytest.raises(OSError, match="not open"):
        file.append(OUT, line(b"one"))


@contextmanager
def _file_size_limit(size_bytes: int) -> Iterator[None]:
    """A disk that is full, as far as this process can tell."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
