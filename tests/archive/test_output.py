"""Where archives go: a file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import pty
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyctrd.archive.output import open_output
from pyctrd.errors import ArchiveError, InvalidInput


def test_a_file_appears_at_the_end_with_the_mode_of_any_file(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    old = os.umask(0o027)
    try:
        with open_output(target) as output:
            output.write(b"archive")
            assert not target.exists()
    finally:
        os.umask(old)
    assert target.read_bytes() == b"archive"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_after_any_failure_the_old_file_is_there_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "image.tar"
    target.write_bytes(b"old")

    def fail_halfway() -> None:
        with open_output(target) as output:
            output.write(b"half")
            assert target.read_bytes() == b"old"
            raise error

    with pytest.raises(type(error)):
        fail_halfway()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_save_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    orphan = tmp_path / ".image.tar.0123abcd.part"
    orphan.write_bytes(b"half")
    others = [
        tmp_path / name for name in (".image.tar.part", ".other.tar.0123abcd.part", ".image.tar.gz.part")
    ]
    for place in others:
        place.write_bytes(b"somebody's")
    with open_output(target) as first:
        assert not orphan.exists()
        with open_output(target) as second:
            second.write(b"second")
        first.write(b"first")
    assert target.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == sorted([target, *others])


def test_a_failing_sync_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(ArchiveError, match="No space left on device"),
        open_output(tmp_path / "image.tar") as output,
    ):
        output.write(b"archive")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "image.tar", tmp_path / "link.tar"
    link.symlink_to(target)
    with open_output(link) as output:
        output.write(b"archive")
    assert link.is_symlink()
    assert target.read_bytes() == b"archive"


def test_a_pipe_is_written_straight(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    thread.start()
    with open_output(fifo) as output:
        output.write(b"archive")
    thread.join()
    assert received == [b"archive"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", None])
def test_stdout_goes_on_where_it_stands(tmp_path: Path, name: str | None) -> None:
    code = (
        f"from pyctrd.archive.output import open_output\nwith open_output({name!r}) as o: o.write(b'archive')"
    )
    target = tmp_path / "out"
    with target.open("wb") as stdout:
        stdout.write(b"before ")
        stdout.flush()
        subprocess.run([sys.executable, "-c", code], stdout=stdout, check=True)
        stdout.write(b" after")
    assert target.read_bytes() == b"before archive after"


def test_a_terminal_is_refused() -> None:
    ours, theirs = pty.openpty()
    try:
        for name in (os.ttyname(theirs), f"/dev/fd/{theirs}"):
            with (
                pytest.raises(InvalidInput, match="cowardly refusing to save to a terminal"),
                open_output(name),
            ):
                pytest.fail("opened a terminal")
    finally:
        os.close(ours)
        os.close(theirs)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a directory"), open_output(tmp_path):
        pytest.fail("opened a folder")
    with pytest.raises(ArchiveError, match="No such file") as caught, open_output(tmp_path / "no" / "x.tar"):
        pytest.fail("opened a file in no folder")
    assert caught.value.hint
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveError, match="Not a directory"), open_output(tmp_path / "file" / "x.tar"):
        pytest.fail("opened a file below a file")
