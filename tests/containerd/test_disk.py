"""The free space of containerd's disk, and when it is not known."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from pyctrd.containerd import Daemon
from pyctrd.containerd.disk import disk_space
from pyctrd.errors import Unsupported
from pyctrd.oci.resources import Plugin

UUID = "c1cf4e2e-5a2c-4f8b-9d0f-1d0c8f6a2b3e"


class Introspection:
    """What a containerd says about itself."""

    def __init__(self, root: str) -> None:
        self._root = root

    def plugins(self, filters: Any) -> list[Plugin]:
        assert filters == ["type==io.containerd.content.v1"]
        exports = {"root": self._root} if self._root else {}
        return [Plugin(type="io.containerd.content.v1", id="content", exports=exports)]

    def server_uuid(self) -> str:
        return UUID


class Described:
    """A daemon of which only the introspection is used."""

    def __init__(self, root: object) -> None:
        self.introspection = Introspection(str(root))


def described(root: object) -> Daemon:
    return cast("Daemon", Described(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "io.containerd.grpc.v1.introspection").mkdir()
    (tmp_path / "io.containerd.grpc.v1.introspection/uuid").write_text(f"{UUID}\n")
    made = tmp_path / "io.containerd.content.v1.content"
    made.mkdir()
    return made


def test_the_file_system_of_the_content_is_measured(root: Path) -> None:
    found, status = disk_space(described(root)), os.statvfs(root)
    assert (found.root, found.bytes) == (str(root), status.f_blocks * status.f_frsize)
    assert 0 < found.bytes_free < found.bytes


def test_a_user_who_may_not_read_the_identity_is_trusted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert disk_space(described(root)).bytes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("no root", "it does not say where its content is"),
        ("not here", "No such file or directory"),
        ("no identity", "No such file or directory"),
        ("other", "on this machine belongs to another containerd"),
    ],
)
def test_the_free_space_is_not_known(root: Path, change: str, reason: str) -> None:
    """Also if the socket of another machine, or of a container, is reached here."""
    identity = root.parent / "io.containerd.grpc.v1.introspection/uuid"
    if change == "other":
        identity.write_text("another")
    elif change == "no identity":
        identity.unlink()
    places = {"no root": "", "not here": root / "missing"}
    with pytest.raises(Unsupported, match=reason) as raised:
        disk_space(described(places.get(change, root)))
    assert "the free disk space of containerd is not known" in str(raised.value)
    assert raised.value.hint is not None
