"""The contract of leases and garbage collection."""

from __future__ import annotations

import os

import pytest

from pyctrd.errors import AlreadyExists, Cancelled, ClientClosed
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Digest
from pyctrd.ports import Store
from tests.support.contract.blobs import SIZE, SNAPSHOT_REF, begin, here, new_blob, open_again, put, tag


class LeaseContract:
    """Store.lease, pin_everything and collect_garbage: what stays, and what is removed."""

    def test_content_stays_as_long_as_the_lease(self, store: Store) -> None:
        with store.lease("test") as leased:
            digest = put(leased, os.urandom(10))
            store.collect_garbage()
            assert here(store, digest) == [True]
        store.collect_garbage()
        assert here(store, digest) == [False]

    def test_existing_content_is_leased_by_opening_a_write(self, store: Store) -> None:
        with store.lease("one") as leased:
            digest = put(leased, os.urandom(10))
            tag(leased, "a:1", digest)
        with store.lease("two") as leased:
            with pytest.raises(AlreadyExists):
                open_again(leased, "x", digest, 10)
            store.images.delete("a:1", sync=True)
            assert here(store, digest) == [True]
        store.collect_garbage()
        assert here(store, digest) == [False]

    def test_content_that_another_client_commits_first_is_not_leased(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("ours") as leased:
            with (
                store.lease("theirs") as theirs,
                leased.content.open_ingest("x", digest=digest, size=SIZE) as ingest,
            ):
                ingest.write(data)
                put(theirs, data)
                with pytest.raises(AlreadyExists):
                    ingest.commit()
            store.collect_garbage()
            assert here(store, digest) == [False]

    def test_an_unfinished_write_stays_as_long_as_the_lease(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            begin(leased, "leased", data[:10], digest, SIZE)
            store.collect_garbage()
            assert [status.ref for status in store.content.ingests()] == ["leased"]
        store.collect_garbage()
        assert store.content.ingests() == ()

    def test_an_unfinished_write_without_a_lease_stays_for_a_day(self, store: Store) -> None:
        data, digest = new_blob()
        begin(store, "free", data[:10], digest, SIZE)
        store.collect_garbage()
        assert [status.ref for status in store.content.ingests()] == ["free"]

    def test_snapshots_stay_as_long_as_the_lease(self, store: Store) -> None:
        with store.lease("test") as leased:
            leased.snapshots.prepare("", "one", "")
            leased.snapshots.commit("", "base", "one")
            leased.snapshots.prepare("", "active", "base")
            store.collect_garbage()
            assert {item.name for item in store.snapshots.list("")} == {"base", "active"}
        store.collect_garbage()
        assert list(store.snapshots.list("")) == []

    def test_an_existing_snapshot_is_leased_by_preparing_it_again(self, store: Store) -> None:
        with store.lease("second") as second:
            with store.lease("first") as first:
                first.snapshots.prepare("", "one", "", {SNAPSHOT_REF: "base"})
                first.snapshots.commit("", "base", "one")
                with pytest.raises(AlreadyExists):
                    second.snapshots.prepare("", "two", "", {SNAPSHOT_REF: "base"})
            store.collect_garbage()
            assert [item.name for item in store.snapshots.list("")] == ["base"]
        store.collect_garbage()
        assert list(store.snapshots.list("")) == []

    def test_gc_labels_protect_the_content_of_an_image(self, store: Store) -> None:
        with store.lease("test") as leased:
            root, child, layer, lost = (put(leased, os.urandom(10)) for _ in range(4))
            leased.content.set_labels(root, {"containerd.io/gc.ref.content.m.0": child})
            leased.content.set_labels(child, {"containerd.io/gc.ref.content.l.0": layer})
            tag(leased, "a:1", root)
        store.collect_garbage()
        assert here(store, root, child, layer, lost) == [True, True, True, False]
        store.content.set_labels(child, {"containerd.io/gc.ref.content.l.0": ""})
        store.collect_garbage()
        assert here(store, root, child, layer) == [True, True, False]
        store.images.delete("a:1", sync=True)
        assert here(store, root, child) == [False, False]

    def test_gc_labels_protect_snapshots_and_their_parents(self, store: Store) -> None:
        with store.lease("test") as leased:
            for name, parent in (("base", ""), ("top", "base"), ("other", "base")):
                leased.snapshots.prepare("", f"new {name}", parent)
                leased.snapshots.commit("", name, f"new {name}")
            config = put(leased, os.urandom(10))
            label = f"{mediatypes.GC_REF_SNAPSHOT}{leased.default_snapshotter()}"
            leased.content.set_labels(config, {label: "top"})
            tag(leased, "a:1", config)
        store.collect_garbage()
        assert {item.name for item in store.snapshots.list("")} == {"base", "top"}
        store.images.delete("a:1", sync=True)
        assert list(store.snapshots.list("")) == []

    def test_a_nested_lease_is_the_outer_lease(self, store: Store) -> None:
        with store.lease("outer") as outer:
            with outer.lease("inner") as inner:
                digest = put(inner, os.urandom(10))
            store.collect_garbage()
            assert here(store, digest) == [True]

    @pytest.mark.parametrize("resumable", [False, True])
    @pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt, ClientClosed, Cancelled])
    def test_only_interrupted_resumable_work_keeps_its_lease(
        self, store: Store, kind: type[BaseException], resumable: bool
    ) -> None:
        digest = Digest.of(b"")

        def work() -> None:
            nonlocal digest
            with store.lease("test", resumable=resumable) as leased:
                digest = put(leased, os.urandom(10))
                raise kind("the end")

        with pytest.raises(kind):
            work()
        store.collect_garbage()
        assert here(store, digest) == [resumable and kind is not ZeroDivisionError]

    @pytest.mark.parametrize("count", [1, 3, 20])
    def test_pinned_content_stays_whatever_refers_to_it(self, store: Store, count: int) -> None:
        with store.lease("one") as leased:
            digests = [put(leased, os.urandom(10)) for _ in range(count)]
            for number, digest in enumerate(digests):
                tag(leased, f"a:{number}", digest)
        _, late = new_blob()
        with store.lease("two") as leased:
            leased.pin([*digests, late])
            for number in range(count):
                store.images.delete(f"a:{number}", sync=number == count - 1)
            assert here(store, *digests) == [True] * count
            assert leased.content.infos([*digests, late]).keys() == set(digests)
        assert {info.digest for info in store.content.list()} <= set(digests)
        store.collect_garbage()
        assert list(store.content.list()) == []

    def test_content_that_did_not_exist_when_it_was_pinned_stays(self, store: Store) -> None:
        blobs = [new_blob(10) for _ in range(20)]
        with store.lease("one") as leased:
            leased.pin([digest for _, digest in blobs])
            with store.lease("two") as other:
                for data, _ in blobs:
                    put(other, data)
            store.collect_garbage()
            assert here(store, *(digest for _, digest in blobs)) == [True] * 20

    def test_pin_without_a_lease_does_nothing(self, store: Store) -> None:
        with store.lease("one") as leased:
            digest = put(leased, os.urandom(10))
            store.pin([digest])
        store.collect_garbage()
        assert here(store, digest) == [False]

    def test_pin_everything_puts_all_content_under_the_lease(self, store: Store) -> None:
        with store.lease("one") as leased:
            digest = put(leased, os.urandom(10))
            tag(leased, "a:1", digest)
        with store.lease("two") as leased:
            leased.pin_everything()
            store.images.delete("a:1", sync=True)
            assert here(store, digest) == [True]
        store.collect_garbage()
        assert here(store, digest) == [False]

    def test_pin_everything_without_a_lease_does_nothing(self, store: Store) -> None:
        with store.lease("one") as leased:
            digest = put(leased, os.urandom(10))
            store.pin_everything()
        store.collect_garbage()
        assert here(store, digest) == [False]

    def test_check_open_passes_on_an_open_store(self, store: Store) -> None:
        store.check_open()
        assert store.namespace
