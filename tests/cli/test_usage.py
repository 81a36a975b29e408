"""`pyctrd usage` in each format."""

from __future__ import annotations

import json

import pytest

from pyctrd.oci.model import Digest
from pyctrd.operations.usage import ImageUsage, SnapshotTotal, SpaceTotal, UsageResult
from tests.cli.stub import run, with_outcome

MIB = 1 << 20
TARGET = Digest.of(b"x")


def image(name: str, own: int, *more: str, in_use: bool = False) -> ImageUsage:
    return ImageUsage(
        namespace="k8s.io",
        name=name,
        names=(name, *more),
        target=TARGET,
        bytes_blobs=own,
        bytes_snapshots=3 * MIB,
        bytes_own=own,
        bytes_shared=3 * MIB,
        bytes_reclaimable=0 if in_use else own,
        in_use=in_use,
        pinned=in_use,
    )


FOUND = UsageResult(
    images=(
        image("registry.example/a:1", 7 * MIB, f"registry.example/a@{TARGET}", TARGET),
        image("registry.example/b:1", 9 * MIB, "registry.example/b:latest", in_use=True),
    ),
    blobs=SpaceTotal(count=5, bytes=16 * MIB, reclaimable=7 * MIB),
    snapshots=SnapshotTotal(
        count=2, bytes=3 * MIB, snapshotters={"overlayfs": SpaceTotal(count=2, bytes=3 * MIB)}
    ),
    ingests=SpaceTotal(count=1, bytes=MIB, reclaimable=MIB),
)


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, FOUND)


def rows(*arguments: str) -> list[list[str]]:
    lines = run("usage", *arguments).stdout.splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_the_table_has_the_totals() -> None:
    assert rows() == [
        ["WHAT", "COUNT", "SIZE", "RECLAIMABLE"],
        ["blobs", "5", "16.0 MiB", "7.0 MiB (43 %)"],
        ["snapshots (overlayfs)", "2", "3.0 MiB", "0 B"],
        ["unfinished writes", "1", "1.0 MiB", "1.0 MiB (100 %)"],
        ["total", "2 images", "20.0 MiB", "8.0 MiB (40 %)"],
    ]


def test_verbose_lists_the_images_largest_first() -> None:
    assert rows("-v")[5:] == [
        [],
        ["NAME", "OWN", "SHARED", "RECLAIMABLE", "STATUS"],
        ["registry.example/b:1 (+1)", "9.0 MiB", "3.0 MiB", "0 B", "in use, pinned"],
        ["registry.example/a:1", "7.0 MiB", "3.0 MiB", "7.0 MiB"],
    ]
    assert "NAMESPACE" in rows("-v", "-A")[6]
    assert rows("--format", "wide")[6][2:5] == ["DIGEST", "BLOBS", "SNAPSHOTS"]


def test_an_empty_namespace_points_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_outcome(monkeypatch, UsageResult()).return_value
    client.namespaces.having.return_value = ("k8s.io", "moby")
    client.namespace = "default"
    result = run("usage")
    assert result.stdout.splitlines()[-1].split() == ["total", "0", "images", "0", "B", "0", "B"]
    assert result.stderr.splitlines() == [
        "pyctrd: no images in namespace default, but in k8s.io, moby",
        "hint: pyctrd -n k8s.io usage",
    ]
    assert run("usage", "--format", "json").stderr == run("usage", "-A").stderr == ""


def test_json_has_the_fields_of_the_contract() -> None:
    found = json.loads(run("usage", "--format", "json").stdout)
    assert set(found) == {"images", "blobs", "snapshots", "ingests", "bytes", "reclaimable"}
    assert found["blobs"] == {"count": 5, "bytes": 16 * MIB, "reclaimable": 7 * MIB}
    assert found["snapshots"]["snapshotters"] == {
        "overlayfs": {"count": 2, "bytes": 3 * MIB, "reclaimable": 0}
    }
    assert (found["bytes"], found["reclaimable"]) == (20 * MIB, 8 * MIB)
    first = found["images"][0]
    assert (first["name"], first["bytes_own"], first["bytes_shared"]) == (
        *("registry.example/a:1", 7 * MIB, 3 * MIB),
    )
    lines = run("usage", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == found["images"]
