"""A layout as a folder: there as a whole or not at all, and never in place of what someone else has."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyctrd.archive import folder as module
from pyctrd.archive import partial
from pyctrd.archive.folder import Folder, open_folder
from pyctrd.errors import ArchiveError, DigestMismatch, InvalidInput
from pyctrd.oci.model import Digest, blob_path
from tests.archive.test_tar import by_digest, layout_of, reader

BLOBS = by_digest(b"one", b"two" * 100_000)
EXPECTED = {"index.json": b"{}", **{blob_path(digest): data for digest, data in BLOBS.items()}}


def files(folder: Path) -> dict[str, bytes]:
    return {str(item.relative_to(folder)): item.read_bytes() for item in folder.rglob("*") if item.is_file()}


def write(path: Path, stored: dict[Digest, bytes] = BLOBS) -> int:
    with open_folder(str(path)) as folder:
        assert not files(path)
        return folder.write(layout_of(BLOBS), reader(stored))


def write_and(path: Path, happening: Callable[[Folder], object]) -> None:
    with open_folder(str(path)) as folder:
        folder.write(layout_of(BLOBS), reader(BLOBS))
        happening(folder)


@pytest.mark.parametrize("existing", [False, True])
def test_the_members_are_files(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "image"
    if existing:
        path.mkdir()
    assert write(path) == sum(map(len, EXPECTED.values()))
    assert files(path) == EXPECTED
    assert list(tmp_path.iterdir()) == [path]


def test_modes_are_those_of_any_program(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "new")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(item.stat().st_mode) for item in (tmp_path / "new").rglob("*") if item.is_file()}
    assert (modes, stat.S_IMODE((tmp_path / "new").stat().st_mode)) == ({0o640}, 0o750)


def test_an_empty_folder_keeps_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "private"
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, 54321, 54322)
    before = path.stat()
    write(path)
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert [getattr(after, name) for name in ("st_mode", "st_uid", "st_gid")] == [
        getattr(before, name) for name in ("st_mode", "st_uid", "st_gid")
    ]


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert files(tmp_path / "real") == EXPECTED


@pytest.mark.parametrize("what", ["full", "file", "."])
def test_what_is_in_the_way_stays(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    path = Path() if what == "." else tmp_path / what
    words = {"full": "the folder is not empty", "file": "is not a folder", ".": "cannot be replaced"}[what]
    with pytest.raises(InvalidInput, match=words) as caught, open_folder(str(path)):
        raise AssertionError("not reached")
    assert "choose a new folder" in str(caught.value.hint)
    assert files(tmp_path) == {"full/mine": b"mine", "file": b"mine"}


def test_a_mount_point_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename in the end would fail; /proc and /sys are folders on other mounts than /."""
    assert module._mount_of(opened("/proc")) != module._mount_of(opened("/"))
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(module, "_mount_of", str)
    with (
        pytest.raises(InvalidInput, match="a mount point cannot be replaced"),
        open_folder(str(tmp_path / "empty")),
    ):
        raise AssertionError("not reached")


def opened(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="No such file or directory") as caught:
        write(tmp_path / "a" / "b")
    assert caught.value.hint == "create the directory first"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    wrong = {digest: bytes(len(data)) for digest, data in BLOBS.items()}
    with pytest.raises(DigestMismatch):
        write(tmp_path / "image", wrong)
    assert list(tmp_path.rglob("*")) == [tmp_path / "image"]


def test_what_appears_there_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "image"

    def appear(_folder: Folder) -> None:
        path.mkdir()
        (path / "other").write_bytes(b"other")

    with pytest.raises(ArchiveError, match="Directory not empty"):
        write_and(path, appear)
    assert files(tmp_path) == {"image/other": b"other"}


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pyctrd.archive.folder import open_folder\n"
        "with open_folder(sys.argv[1]) as folder:\n"
        "    os.mkdir('blobs', dir_fd=folder.number)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "image")], check=False, timeout=60)
    assert done.returncode == -9
    (orphan,) = tmp_path.iterdir()
    assert (orphan / "blobs").is_dir()
    write(tmp_path / "image")
    assert list(tmp_path.iterdir()) == [tmp_path / "image"]


def test_two_saves_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with pytest.raises(ArchiveError, match="Directory not empty"):
        write_and(path, lambda _folder: write(path))
    assert files(tmp_path) == {f"image/{name}": data for name, data in EXPECTED.items()}


def test_a_process_that_ends_at_once_removes_it(tmp_path: Path) -> None:
    def end(_folder: Folder) -> None:
        assert len(list(tmp_path.iterdir())) == 1
        partial.remove_unfinished()
        assert list(tmp_path.iterdir()) == []

    with pytest.raises(ArchiveError, match="another process removed it"):
        write_and(tmp_path / "image", end)
