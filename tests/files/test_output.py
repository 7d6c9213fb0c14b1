"""Files are written complete or not at all, and never over what is no ordinary file."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from cvxlayers.files.output import obstacle, replacing, same_as


def write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "new", b"one")
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_bytes() == b"one"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_an_old_file_is_replaced_in_one_step_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    path.chmod(0o755)
    with path.open("rb") as reader:
        write(path, b"something longer")
        assert reader.read() == b"old"  # whoever reads it still reads the old one
    assert path.read_bytes() == b"something longer"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_old_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    os.chown(path, 12, 34)
    write(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


def interrupted(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as file:
        file.write(b"half")
        raise error


def test_after_an_error_nothing_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            interrupted(path, error)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link, chain = tmp_path / "folder" / "target", tmp_path / "link", tmp_path / "chain"
    link.symlink_to("folder/target")
    chain.symlink_to("link")
    write(chain, b"where nothing was")
    write(link, b"there")
    assert link.is_symlink() and chain.is_symlink() and target.read_bytes() == b"there"
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert obstacle(loop)
    with pytest.raises(OSError, match="loop"):
        write(loop, b"nowhere")
    assert loop.is_symlink()


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe, link, got = tmp_path / "pipe", tmp_path / "link", []
    os.mkfifo(pipe)
    link.symlink_to("pipe")
    content = bytes(range(256)) * 2000  # more than a pipe holds
    assert obstacle(link) == ""
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write(link, content)
    reader.join(10)
    assert got == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode) and link.is_symlink()


def test_a_device_is_written_into() -> None:
    before = os.stat(os.devnull)
    assert obstacle(os.devnull) == ""
    write(Path(os.devnull), b"lost")
    after = os.stat(os.devnull)
    assert stat.S_ISCHR(after.st_mode) and (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_a_file_without_a_name_is_written_into(tmp_path: Path) -> None:
    with open(tmp_path / "gone", "wb+") as file:
        os.unlink(tmp_path / "gone")
        write(Path(f"/proc/self/fd/{file.fileno()}"), b"12345")
        write(Path(f"/proc/self/fd/{file.fileno()}"), b"123")
        assert os.pread(file.fileno(), 10, 0) == b"123"
    assert list(tmp_path.iterdir()) == []


def test_what_takes_nothing_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        assert obstacle(tmp_path / "socket") == "it is a socket"
        with pytest.raises(OSError, match="it is a socket"):
            write(tmp_path / "socket", b"")
        assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)
    assert obstacle(tmp_path) == "it is a folder"
    with pytest.raises(IsADirectoryError):
        write(tmp_path, b"")
    assert "does not exist" in obstacle(tmp_path / "absent" / "file")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "absent" / "file", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_disk_is_refused(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    except OSError:  # not even root, in some containers
        pytest.skip("devices cannot be made here")
    assert obstacle(tmp_path / "disk") == "it is a block device"
    with pytest.raises(OSError, match="block device"):
        write(tmp_path / "disk", b"")


def test_a_file_that_may_not_be_written_to_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # which root always may
    assert obstacle(path) == "it may not be written to"
    with pytest.raises(PermissionError):
        write(path, b"new")
    assert path.read_bytes() == b"old"


def test_what_is_open_is_known_again(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file:
        assert same_as(tmp_path / "a", file.fileno())
        assert not same_as(tmp_path / "b", file.fileno()) and not same_as(os.devnull, file.fileno())
