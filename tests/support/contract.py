"""The contract of ports.Store, with containerd's behaviour.

The classes run on the in-memory store (tests/test_contract.py) and on real daemons of every generation
(integration/test_contract.py); both have a fixture `store`: a namespace with nothing in it. All content is
random, since a daemon's namespaces share content.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable

import pytest

from pyctrd.errors import (
    AlreadyExists,
    Cancelled,
    ClientClosed,
    ContentError,
    DaemonError,
    FailedPrecondition,
    IngestLocked,
    NotFound,
)
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.ports import Store
from tests.support.images import tar_of

SIZE = 300_000
SNAPSHOT_REF = "containerd.io/snapshot.ref"


def new_blob(size: int = SIZE) -> tuple[bytes, Digest]:
    data = os.urandom(size)
    return data, Digest.of(data)


def put(store: Store, data: bytes) -> Digest:
    digest = Digest.of(data)
    with store.content.open_ingest(f"put-{digest}", digest=digest, size=len(data)) as ingest:
        ingest.write(data[ingest.offset :])  # a daemon may still have the bytes of what was deleted
        ingest.commit()
    return digest


def tag(store: Store, name: str, digest: Digest, labels: dict[str, str] | None = None) -> ImageRecord:
    target = Descriptor(
        media_type=mediatypes.OCI_MANIFEST, digest=digest, size=store.content.info(digest).size
    )
    return store.images.create(ImageRecord(name=name, target=target, labels=labels or {}))


def here(store: Store, *digests: Digest) -> list[bool]:
    listed = {info.digest for info in store.content.list()}
    return [digest in listed for digest in digests]


def begin(store: Store, ref: str, data: bytes, digest: Digest, size: int) -> None:
    """Write part of a blob, and leave it unfinished."""
    with store.content.open_ingest(ref, digest=digest, size=size) as ingest:
        ingest.write(data)


def open_again(store: Store, ref: str, digest: Digest, size: int) -> None:
    with store.content.open_ingest(ref, digest=digest, size=size):
        pytest.fail("the content was opened for writing")


class ContentContract:
    """ports.ContentStore."""

    @pytest.mark.parametrize("size", [0, 1, SIZE, 3 << 20])
    def test_what_is_written_is_read(self, store: Store, size: int) -> None:
        data, digest = new_blob(size)
        with store.lease("test") as leased:
            assert put(leased, data) == digest
            info = leased.content.info(digest)
            assert (info.digest, info.size, info.labels) == (digest, size, {})
            assert leased.content.read_all(digest, limit=size) == data
            with leased.content.read(digest) as chunks:
                pieces = list(map(bytes, chunks))
            assert b"".join(pieces) == data
            assert all(len(piece) <= 1 << 20 for piece in pieces)

    @pytest.mark.parametrize(("offset", "size"), [(0, 10), (1234, 0), (1234, 5), (SIZE, 0)])
    def test_a_part_is_read(self, store: Store, offset: int, size: int) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            put(leased, data)
            with leased.content.read(digest, offset=offset, size=size) as chunks:
                assert b"".join(chunks) == data[offset : offset + size if size else None]

    def test_documents_have_a_limit(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            put(leased, data)
            with pytest.raises(ContentError, match=f"content {digest} is larger than {SIZE - 1} bytes"):
                leased.content.read_all(digest, limit=SIZE - 1)

    def test_absent_content_is_called_by_its_digest(self, store: Store) -> None:
        _, digest = new_blob()
        calls: list[Callable[[], object]] = [
            lambda: store.content.info(digest),
            lambda: store.content.read_all(digest, limit=SIZE),
            lambda: store.content.set_labels(digest, {"a": "1"}),
            lambda: store.content.delete(digest),
        ]
        for call in calls:
            with pytest.raises(NotFound, match=f"content.* {digest}: not found") as caught:
                call()
            assert (caught.value.kind, caught.value.name) == ("content", digest)
        with store.content.read(digest) as chunks, pytest.raises(NotFound, match=f"{digest}: not found"):
            next(chunks)

    def test_an_unfinished_write_is_listed_and_resumed(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            begin(leased, "layer-x", data[:1000], digest, SIZE)
            (status,) = leased.content.ingests()
            assert (status.ref, status.offset, status.total) == ("layer-x", 1000, SIZE)
            assert here(leased, digest) == [False]
            with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                assert ingest.offset == 1000
                ingest.write(data[1000:])
                assert ingest.offset == SIZE
                ingest.commit()
            assert leased.content.read_all(digest, limit=SIZE) == data
            assert leased.content.ingests() == ()

    def test_an_error_leaves_what_was_written(self, store: Store) -> None:
        data, digest = new_blob()

        def fail() -> None:
            with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                ingest.write(data[:1000])
                raise ZeroDivisionError

        with store.lease("test") as leased:
            with pytest.raises(ZeroDivisionError):
                fail()
            assert [status.offset for status in leased.content.ingests()] == [1000]

    def test_a_complete_write_only_lacks_its_commit(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            begin(leased, "layer-x", data, digest, SIZE)
            with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                assert ingest.offset == SIZE
                ingest.commit()
            assert here(leased, digest) == [True]

    def test_a_write_is_aborted_also_where_it_is_not(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            begin(leased, "layer-x", data, digest, SIZE)
            leased.content.abort("layer-x")
            assert leased.content.ingests() == ()
            leased.content.abort("layer-x")
            with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                assert ingest.offset == 0

    def test_one_writes_at_a_time(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                with pytest.raises(IngestLocked, match="locked") as caught:
                    open_again(leased, "layer-x", digest, SIZE)
                assert (caught.value.kind, caught.value.name) == ("ingest", "layer-x")
                ingest.write(data)
            with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                ingest.commit()

    def test_wrong_bytes_are_refused_and_stay_until_they_are_aborted(self, store: Store) -> None:
        _, digest = new_blob()
        with store.lease("test") as leased:
            for _ in range(2):
                with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                    ingest.write(bytes(SIZE - ingest.offset))
                    with pytest.raises(FailedPrecondition, match="unexpected commit digest") as caught:
                        ingest.commit()
                assert (caught.value.kind, caught.value.name) == ("content", digest)
                assert [status.offset for status in leased.content.ingests()] == [SIZE]
            assert here(leased, digest) == [False]

    @pytest.mark.parametrize("written", [0, SIZE - 1, SIZE + 1])
    def test_a_wrong_size_is_refused(self, store: Store, written: int) -> None:
        _, digest = new_blob()
        with (
            store.lease("test") as leased,
            leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest,
        ):
            ingest.write(bytes(written))
            with pytest.raises(FailedPrecondition, match="failed size validation"):
                ingest.commit()

    def test_content_that_is_here_is_not_written(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            put(leased, data)
            with pytest.raises(AlreadyExists, match=f"{digest}: already exists") as caught:
                open_again(leased, "layer-x", digest, SIZE)
            assert (caught.value.kind, caught.value.name) == ("content", digest)
            assert leased.content.ingests() == ()

    def test_content_that_is_here_can_be_written_by_who_does_not_name_it(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            put(leased, data)
            with leased.content.open_ingest("x", digest=digest, size=SIZE, expected=False) as ingest:
                assert ingest.offset == 0
                ingest.write(data)
                with pytest.raises(AlreadyExists):
                    ingest.commit()
            assert leased.content.ingests() == ()

    def test_content_that_another_finishes_first(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                ingest.write(data)
                put(leased, data)
                with pytest.raises(AlreadyExists, match="blob with expected digest"):
                    ingest.commit()
            assert leased.content.ingests() == ()
            assert leased.content.read_all(digest, limit=SIZE) == data

    def test_labels_are_merged_and_removed(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            put(leased, data)
            leased.content.set_labels(digest, {"a/b": "1", "keep": "1"})
            leased.content.set_labels(digest, {"keep": "2", "more": "x"})
            leased.content.set_labels(digest, {"more": "", "never": ""})
            leased.content.set_labels(digest, {})
            assert leased.content.info(digest).labels == {"a/b": "1", "keep": "2"}

    def test_content_is_listed(self, store: Store) -> None:
        with store.lease("test") as leased:
            one, two = put(leased, os.urandom(10)), put(leased, os.urandom(20))
            leased.content.set_labels(one, {"test/label": "a:1"})
            leased.content.set_labels(two, {"test/label": "b"})

            def found(*filters: str) -> set[tuple[str, int]]:
                return {(info.digest, info.size) for info in leased.content.list(filters)}

            assert found() == {(one, 10), (two, 20)}
            assert found(f"digest=={two}") == {(two, 20)}
            assert found('labels."test/label"==a:1') == {(one, 10)}
            assert found('labels."test/label"==a:1', f"digest=={two}") == found()
            assert found(f'labels."test/label"==a:1,digest=={two}') == set()
            assert found('labels."other"==a:1') == set()

    def test_content_is_deleted_with_its_labels(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            put(leased, data)
            leased.content.set_labels(digest, {"a": "1"})
            leased.content.delete(digest)
            assert here(leased, digest) == [False]
            with pytest.raises(NotFound):
                leased.content.delete(digest)
            put(leased, data)
            assert leased.content.info(digest).labels == {}


class ImageContract:
    """ports.ImageStore."""

    NAME = "registry.example/team/app:1"

    def record(self, **labels: str) -> ImageRecord:
        _, digest = new_blob(1)
        target = Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=digest, size=1)
        return ImageRecord(name=self.NAME, target=target, labels=labels)

    def test_a_record_is_created_once(self, store: Store) -> None:
        record = self.record(a="1")
        made = store.images.create(record)
        assert (made.name, made.target, made.labels) == (record.name, record.target, record.labels)
        assert made.created_at is not None
        assert store.images.get(self.NAME) == made
        with pytest.raises(AlreadyExists, match=f'image "{self.NAME}": already exists') as caught:
            store.images.create(self.record())
        assert (caught.value.kind, caught.value.name) == ("image", self.NAME)
        assert store.images.get(self.NAME) == made

    def test_only_the_named_fields_are_updated(self, store: Store) -> None:
        made = store.images.create(self.record(a="1", b="2", c="3"))
        wanted = self.record(a="x", b="", d="4")
        store.images.update(wanted, fields=["labels.a", "labels.b", "labels.d"])
        found = store.images.get(self.NAME)
        assert (found.target, found.labels) == (made.target, {"a": "x", "c": "3", "d": "4"})
        assert store.images.update(wanted, fields=["target"]).target == wanted.target
        found = store.images.get(self.NAME)
        assert (found.target, found.labels) == (wanted.target, {"a": "x", "c": "3", "d": "4"})
        store.images.update(self.record(e="5"), fields=["labels"])
        found = store.images.get(self.NAME)
        assert (found.target, found.labels, found.created_at) == (wanted.target, {"e": "5"}, made.created_at)

    def test_an_update_names_its_fields(self, store: Store) -> None:
        store.images.create(self.record())
        with pytest.raises(ValueError, match="fields"):
            store.images.update(self.record(), fields=[])

    def test_records_are_listed(self, store: Store) -> None:
        records = [ImageRecord(name=name, target=self.record().target) for name in ("a/x:1", "a/y:1")]
        assert store.images.list() == ()
        for record in records:
            store.images.create(record)

        def found(*filters: str) -> set[str]:
            return {record.name for record in store.images.list(filters)}

        one = records[0].target.digest
        assert found() == {"a/x:1", "a/y:1"}
        assert found("name==a/y:1") == {"a/y:1"}
        assert found('name=="a/y:1"', 'name=="b"') == {"a/y:1"}
        assert found(f"target.digest=={one}") == {"a/x:1"}
        assert found(f"target.digest~=^{one[:20]}") == {"a/x:1"}
        assert found(f"name==a/y:1,target.digest=={one}") == set()

    def test_a_record_is_deleted(self, store: Store) -> None:
        for sync in (False, True):
            store.images.create(self.record())
            store.images.delete(self.NAME, sync=sync)
            assert store.images.list() == ()

    def test_an_absent_record_is_called_by_its_name(self, store: Store) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.images.get(self.NAME),
            lambda: store.images.delete(self.NAME),
            lambda: store.images.update(self.record(), fields=["target"]),
        ]
        for call in calls:
            with pytest.raises(NotFound, match=f'image "{self.NAME}": not found') as caught:
                call()
            assert (caught.value.kind, caught.value.name) == ("image", self.NAME)


class SnapshotContract:
    """ports.SnapshotStore and ports.DiffService; `""` is the default snapshotter."""

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

    def test_a_name_is_taken_once(self, store: Store) -> None:
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

    def test_a_snapshot_that_is_there_is_not_prepared_for(self, store: Store) -> None:
        """The label that containerd's own unpacker sets."""
        with store.lease("test") as leased:
            leased.snapshots.prepare("", "one", "", {SNAPSHOT_REF: "base"})
            leased.snapshots.commit("", "base", "one")
            with pytest.raises(AlreadyExists) as caught:
                leased.snapshots.prepare("", "two", "", {SNAPSHOT_REF: "base"})
            assert caught.value.kind == "snapshot"
            assert [item.name for item in leased.snapshots.list("")] == ["base"]

    def test_an_absent_snapshot_is_called_by_its_name(self, store: Store) -> None:
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

    def test_a_parent_is_not_removed(self, store: Store) -> None:
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

    def test_a_layer_that_is_not_here(self, store: Store) -> None:
        _, digest = new_blob(1)
        layer = Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=digest, size=1)
        with store.lease("test") as leased:
            mounts = leased.snapshots.prepare("", "active", "")
            with pytest.raises(NotFound, match=f"{digest}: not found") as caught:
                leased.diffs.apply(layer, mounts)
        assert (caught.value.kind, caught.value.name) == ("layer", digest)

    def test_a_layer_that_cannot_be_read(self, store: Store) -> None:
        data, digest = new_blob()
        layer = Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=digest, size=len(data))
        with store.lease("test") as leased:
            put(leased, data)
            mounts = leased.snapshots.prepare("", "active", "")
            with pytest.raises(DaemonError):
                leased.diffs.apply(layer, mounts)


class LeaseContract:
    """Store.lease, pin_everything and collect_garbage: what stays, and what goes."""

    def test_content_stays_as_long_as_the_lease(self, store: Store) -> None:
        with store.lease("test") as leased:
            digest = put(leased, os.urandom(10))
            store.collect_garbage()
            assert here(store, digest) == [True]
        store.collect_garbage()
        assert here(store, digest) == [False]

    def test_content_that_is_here_is_leased_by_an_attempt_to_write_it(self, store: Store) -> None:
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

    def test_content_that_another_finishes_first_is_not_leased_for_that(self, store: Store) -> None:
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

    def test_a_snapshot_that_is_there_is_leased_by_preparing_for_it(self, store: Store) -> None:
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

    def test_labels_keep_what_an_image_is_made_of(self, store: Store) -> None:
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

    def test_labels_keep_snapshots_and_their_parents(self, store: Store) -> None:
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

    def test_a_lease_within_a_lease_is_the_same(self, store: Store) -> None:
        with store.lease("outer") as outer:
            with outer.lease("inner") as inner:
                digest = put(inner, os.urandom(10))
            store.collect_garbage()
            assert here(store, digest) == [True]

    @pytest.mark.parametrize("resumable", [False, True])
    @pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt, ClientClosed, Cancelled])
    def test_only_an_interrupt_of_resumable_work_leaves_the_lease(
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

    def test_everything_can_be_put_under_a_lease(self, store: Store) -> None:
        with store.lease("one") as leased:
            digest = put(leased, os.urandom(10))
            tag(leased, "a:1", digest)
        with store.lease("two") as leased:
            leased.pin_everything()
            store.images.delete("a:1", sync=True)
            assert here(store, digest) == [True]
        store.collect_garbage()
        assert here(store, digest) == [False]

    def test_without_a_lease_there_is_nothing_to_put_it_under(self, store: Store) -> None:
        with store.lease("one") as leased:
            digest = put(leased, os.urandom(10))
            store.pin_everything()
        store.collect_garbage()
        assert here(store, digest) == [False]

    def test_a_store_that_is_open_says_nothing(self, store: Store) -> None:
        store.check_open()
        assert store.namespace
