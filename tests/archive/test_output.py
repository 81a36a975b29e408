"""Where archives go: a file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import pty
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

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


# --- whose file it is --------------------------------------------------------------------------------------

_STRANGER = 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")


def rights(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


@as_root
def test_an_archive_that_is_replaced_keeps_mode_owner_and_group(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    target.write_bytes(b"old")
    os.chown(target, _STRANGER, _STRANGER + 1)
    target.chmod(0o640)
    with open_output(target) as output:
        (part,) = tmp_path.glob(".*.part")
        assert rights(part) == rights(target) == (0o640, _STRANGER, _STRANGER + 1)
        output.write(b"new")
    assert target.read_bytes() == b"new"
    assert rights(target) == (0o640, _STRANGER, _STRANGER + 1)


def test_a_private_archive_is_private_from_its_first_byte(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    target.write_bytes(b"old")
    target.chmod(0o600)
    old = os.umask(0)
    try:
        with open_output(target) as output:
            (part,) = tmp_path.glob(".*.part")
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
            output.write(b"new")
    finally:
        os.umask(old)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_where_the_group_cannot_be_kept_its_rights_are_not_given_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    target = tmp_path / "image.tar"
    target.write_bytes(b"old")
    target.chmod(0o664)
    monkeypatch.setattr(os, "fchown", refuse)
    with open_output(target) as output:
        output.write(b"new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


def test_an_access_list_is_kept_and_the_folders_default_is_not_taken(tmp_path: Path) -> None:
    access, default = "system.posix_acl_access", "system.posix_acl_default"

    def acl(bits: int) -> bytes:  # rw for the owner, `bits` for one more user, nothing for the others
        rows = [(1, 6, -1), (2, bits, _STRANGER), (4, 0, -1), (16, bits, -1), (32, 0, -1)]
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)

    target, plain = tmp_path / "image.tar", tmp_path / "plain.tar"
    for place in (target, plain):
        place.write_bytes(b"old")
        place.chmod(0o640)
    try:
        os.setxattr(target, access, acl(4))
        os.setxattr(tmp_path, default, acl(6))
    except OSError as error:
        pytest.skip(f"no access lists on this file system: {error}")
    for place in (target, plain):
        with open_output(place) as output:
            output.write(b"new")
    assert os.getxattr(target, access) == acl(4)
    assert access not in os.listxattr(plain)
    assert stat.S_IMODE(plain.stat().st_mode) == 0o640


@as_root
@pytest.mark.parametrize("sticky", [0o1777, 0o777])
@pytest.mark.parametrize("kind", ["link", "folder link", "pipe", "file"])
def test_what_belongs_to_another_is_left_alone_where_everybody_may_write(
    tmp_path: Path, kind: str, sticky: int
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    secret = mine / "secret"
    secret.write_bytes(b"secret")
    secret.chmod(0o600)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(sticky)
    bait = shared / "bait"
    name = bait
    if kind == "link":
        bait.symlink_to(secret)
    elif kind == "folder link":
        bait.symlink_to(mine)
        name = bait / "secret"
    elif kind == "pipe":
        os.mkfifo(bait, 0o666)
    else:
        bait.write_bytes(b"bait")
        bait.chmod(0o666)
    os.chown(bait, _STRANGER, _STRANGER, follow_symlinks=False)
    before = rights(bait)
    with pytest.raises(ArchiveError, match=f"belongs to another user .uid {_STRANGER}."), open_output(name):
        pytest.fail("opened what another user has put there")
    assert secret.read_bytes() == b"secret"
    assert rights(secret) == (0o600, 0, 0)
    assert rights(bait) == before
    assert list(shared.iterdir()) == [bait]
    # what is ours or the folder owner's is fine, and so is whatever we name in a folder of somebody's own
    os.chown(bait, 0, 0, follow_symlinks=False)
    if kind != "pipe":
        with open_output(name) as output:
            output.write(b"archive")
        assert name.read_bytes() == b"archive"


@as_root
def test_a_link_in_a_folder_of_its_owners_is_followed(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    os.chown(shared, _STRANGER, _STRANGER)
    (shared / "link").symlink_to(tmp_path / "target")
    os.chown(shared / "link", _STRANGER, _STRANGER, follow_symlinks=False)
    with open_output(shared / "link") as output:
        output.write(b"archive")
    assert (tmp_path / "target").read_bytes() == b"archive"


def test_a_folder_that_is_exchanged_meanwhile_does_not_lead_elsewhere(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (other / "image.tar").write_bytes(b"other")
    with open_output(folder / "image.tar") as output:
        output.write(b"archive")
        folder.rename(tmp_path / "moved")
        folder.symlink_to(other)
    assert (tmp_path / "moved" / "image.tar").read_bytes() == b"archive"
    assert (other / "image.tar").read_bytes() == b"other"


def test_a_part_that_somebody_exchanges_is_not_taken_for_the_archive(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    target.write_bytes(b"old")

    def exchange(output: BinaryIO) -> None:
        output.write(b"archive")
        (part,) = tmp_path.glob(".*.part")
        part.unlink()
        part.write_bytes(b"bait")

    with pytest.raises(ArchiveError, match="another process removed it"), open_output(target) as output:
        exchange(output)
    assert target.read_bytes() == b"old"


def test_links_that_go_round_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with (
        pytest.raises(ArchiveError, match="Too many levels of symbolic links"),
        open_output(tmp_path / "one"),
    ):
        pytest.fail("opened a link that goes round")


def test_paths_are_followed_as_the_kernel_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "up").symlink_to("a/b/..")
    (tmp_path / "absolute").symlink_to(tmp_path / "up")
    monkeypatch.chdir(tmp_path / "a")
    for number, name in enumerate(("x", "./b/../x", "../up/x", "../absolute//x", f"{tmp_path}/a/x")):
        with open_output(name) as output:
            output.write(str(number).encode())
        assert (tmp_path / "a" / "x").read_bytes() == str(number).encode()


def test_the_pipe_of_another_process_is_written_straight(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    link = tmp_path / "link"
    link.symlink_to(f"/proc/{os.getpid()}/fd/{writing}")
    with open_output(link) as output:
        output.write(b"archive")
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        assert stream.read() == b"archive"


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


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_stdout_goes_on_where_it_stands(tmp_path: Path, name: str) -> None:
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
