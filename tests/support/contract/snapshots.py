"""The contract of ports.SnapshotStore and ports.DiffService."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable

import pytest

from pyctrd.errors import AlreadyExists, DaemonError, FailedPrecondition, NotFound
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.ports import Store
from tests.support.contract.blobs import SNAPSHOT_REF, new_blob, put
from tests.support.images import tar_of


class SnapshotContract:
    """ports.SnapshotStore and ports.DiffService; "" is the default snapshotter."""

    def test_a_snapshot_is_prepared_and_committed(self, store: Store) -> None:
        with store.lease("test") as leased:
            snapshots = leased.snapshots
            assert len(snapshots.prepare("", "active", "", {"a": "1"})) == 1
            info = snapshots.stat("", "active")
            assert (info.name, info.parent, info.kind, info.labels["a"]) == ("active", "", "active", "1")
            snapshots.commit("", "base", "active", {"b": "2"})
            info = snapshots.stat(leased.default_snapshotter(), "base")
            assert (info.name, info.parent, info.kind, info.labels["b"]) == ("base", "", "committed", "2")
            snapshots.prepare("", "second", "base")
            snapshots.commit("", "top", "second")
            assert snapshots.stat("", "top").parent == "base"
            assert {item.name for item in snapshots.list(leased.default_snapshotter())} == {"base", "top"}

    def test_a_parent_is_set_at_the_commit_if_the_snapshotter_can(self, store: Store) -> None:
        with store.lease("test") as leased:
            snapshots = leased.snapshots
            for name, parent in (("base", ""), ("top", "base")):
                snapshots.prepare("", f"new {name}", "")
                snapshots.commit("", name, f"new {name}", parent=parent)
            can = snapshots.can_rebase("")
            assert can == snapshots.can_rebase(leased.default_snapshotter())
            assert snapshots.stat("", "top").parent == ("base" if can else "")
            store.collect_garbage()
            assert {item.name for item in snapshots.list("")} == {"base", "top"}
            if can:
                with pytest.raises(FailedPrecondition):
                    snapshots.remove("", "base")
                snapshots.prepare("", "active", "")
                with pytest.raises(NotFound, match="absent") as caught:
                    snapshots.commit("", "other", "active", parent="absent")
                assert caught.value.kind == "snapshot"

    def test_names_are_unique(self, store: Store) -> None:
        with store.lease("test") as leased:
            snapshots = leased.snapshots
            snapshots.prepare("", "one", "")
            with pytest.raises(AlreadyExists) as caught:
                snapshots.prepare("", "one", "")
            assert (caught.value.kind, caught.value.name) == ("snapshot", "one")
            snapshots.commit("", "base", "one")
            snapshots.prepare("", "two", "")
            with pytest.raises(AlreadyExists):
                snapshots.commit("", "base", "two")
            assert {item.name for item in snapshots.list("")} == {"base", "two"}

    def test_prepare_refuses_the_target_of_an_existing_snapshot(self, store: Store) -> None:
        """The label that containerd's own unpacker sets."""
        with store.lease("test") as leased:
            leased.snapshots.prepare("", "one", "", {SNAPSHOT_REF: "base"})
            leased.snapshots.commit("", "base", "one")
            with pytest.raises(AlreadyExists) as caught:
                leased.snapshots.prepare("", "two", "", {SNAPSHOT_REF: "base"})
            assert caught.value.kind == "snapshot"
            assert [item.name for item in leased.snapshots.list("")] == ["base"]

    def test_errors_for_absent_snapshots_have_their_name(self, store: Store) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.snapshots.stat("", "absent"),
            lambda: store.snapshots.remove("", "absent"),
            lambda: store.snapshots.prepare("", "new", "absent"),
            lambda: store.snapshots.commit("", "new", "absent"),
        ]
        with store.lease("test") as leased:
            leased.snapshots.prepare("", "there", "")
            for call in calls:
                with pytest.raises(NotFound, match="absent") as caught:
                    call()
                assert caught.value.kind == "snapshot"

    def test_a_parent_cannot_be_removed(self, store: Store) -> None:
        with store.lease("test") as leased:
            snapshots = leased.snapshots
            snapshots.prepare("", "one", "")
            snapshots.commit("", "base", "one")
            snapshots.prepare("", "child", "base")
            with pytest.raises(FailedPrecondition):
                snapshots.remove("", "base")
            snapshots.remove("", "child")
            snapshots.remove("", "base")
            assert list(snapshots.list("")) == []

    @pytest.mark.parametrize("kind", ["", "+gzip"])
    def test_a_layer_is_applied(self, store: Store, kind: str) -> None:
        tar = tar_of({"file": os.urandom(1000)})
        data = gzip.compress(tar) if kind else tar
        with store.lease("test") as leased:
            layer = Descriptor(
                media_type=f"application/vnd.oci.image.layer.v1.tar{kind}",
                digest=put(leased, data),
                size=len(data),
            )
            applied = leased.diffs.apply(layer, leased.snapshots.prepare("", "active", ""))
            assert (applied.digest, applied.size) == (Digest.of(tar), len(tar))
            assert applied.media_type == "application/vnd.oci.image.layer.v1.tar"

    def test_an_absent_layer_cannot_be_applied(self, store: Store) -> None:
        _, digest = new_blob(1)
        layer = Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=digest, size=1)
        with store.lease("test") as leased:
            mounts = leased.snapshots.prepare("", "active", "")
            with pytest.raises(NotFound, match=f"{digest}: not found") as caught:
                leased.diffs.apply(layer, mounts)
        assert (caught.value.kind, caught.value.name) == ("layer", digest)

    def test_an_invalid_layer_cannot_be_applied(self, store: Store) -> None:
        data, digest = new_blob()
        layer = Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=digest, size=len(data))
        with store.lease("test") as leased:
            put(leased, data)
            mounts = leased.snapshots.prepare("", "active", "")
            with pytest.raises(DaemonError):
                leased.diffs.apply(layer, mounts)
