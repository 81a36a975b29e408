"""What `rm` prints."""

from __future__ import annotations

import json

import pytest

from pyctrd.errors import ImageInUse, Remedy
from pyctrd.oci.model import Digest
from pyctrd.steps.removal import KeptImage, Reference, RemovedBlob, RemovedSnapshot, RemoveResult
from tests.cli.stub import run, with_outcome

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
RESULT = RemoveResult(
    images=("docker.io/library/app:1", "docker.io/library/app:2"),
    blobs=(RemovedBlob(digest=ONE, size=3 << 20), RemovedBlob(digest=TWO, size=7 << 20, shared=True)),
    snapshots=(RemovedSnapshot(snapshotter="overlayfs", key=str(TWO), bytes=1 << 20),),
    leases=("old",),
    ingests=("layer-1",),
    kept=(KeptImage(name="docker.io/library/app:2", by=(Reference(kind="image", name="app:3"),)),),
)


def test_a_dry_run_lists_what_would_be_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = with_outcome(monkeypatch, RESULT)
    assert run("rm", "--dry-run", "app:1", "app:2").stdout.splitlines() == [
        "would remove docker.io/library/app:1",
        "would remove docker.io/library/app:2",
        "  its content stays: image app:3 keeps it",
        "would remove lease old",
        "would discard unfinished write layer-1",
        f"KIND      {'DIGEST OR KEY':71}     SIZE  NOTE",
        f"blob      {ONE}  3.0 MiB",
        f"blob      {TWO}  7.0 MiB  stays for another namespace",
        f"snapshot  {TWO}  1.0 MiB  overlayfs",
        "would free 4.0 MiB: 2 blobs and 1 snapshot; 1 blob stays on the disk for another namespace",
    ]
    opened.return_value.images.remove.assert_called_once_with(
        ("app:1", "app:2"), all_names=False, force=False, sync=True, dry_run=True
    )


@pytest.mark.parametrize(("option", "begin"), [("--sync", "freed"), ("--no-sync", "will free")])
def test_a_removal_prints_a_summary(monkeypatch: pytest.MonkeyPatch, option: str, begin: str) -> None:
    with_outcome(monkeypatch, RemoveResult(images=("app:1",), blobs=RESULT.blobs[:1]))
    assert run("rm", option, "app:1").stdout.splitlines() == [
        "removed app:1",
        f"{begin} 3.0 MiB: 1 blob",
    ]


def test_a_removal_may_free_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, RemoveResult(images=("app:1",)))
    assert run("rm", "app:1").stdout.splitlines()[-1] == "freed nothing"


def test_quiet_prints_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, RESULT)
    assert run("rm", "-q", "app:1", "app:2").stdout.splitlines() == [*RESULT.images]


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, RESULT)
    assert json.loads(run("rm", "app:1", "--format", "json").stdout) == {
        "images": [*RESULT.images],
        "blobs": [
            {"digest": ONE, "size": 3 << 20, "shared": False},
            {"digest": TWO, "size": 7 << 20, "shared": True},
        ],
        "snapshots": [{"snapshotter": "overlayfs", "key": TWO, "bytes": 1 << 20}],
        "leases": ["old"],
        "ingests": ["layer-1"],
        "bytes": 4 << 20,
        "kept": [{"image": "docker.io/library/app:2", "by": [{"kind": "image", "name": "app:3"}]}],
    }


def test_an_image_in_use_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINERD_NAMESPACE", raising=False)
    remedy = Remedy(method="remove", images=("app:1",), force=True)
    error = ImageInUse("in use", images=("app:1",), hint="to remove it anyway", remedy=remedy)
    with_outcome(monkeypatch, error)
    found = run("rm", "app:1")
    assert found.exit_code == 1
    assert found.stderr.splitlines() == [
        "pyctrd: in use",
        "hint: to remove it anyway: pyctrd rm --force app:1",
    ]
