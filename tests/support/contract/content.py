"""The contract of ports.ContentStore."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import pytest

from pyctrd.errors import AlreadyExists, ContentError, FailedPrecondition, IngestLocked, NotFound
from pyctrd.oci.mediatypes import OCI_CONFIG
from pyctrd.oci.model import Descriptor
from pyctrd.ports import SmallBlob, Store
from tests.support.contract.blobs import SIZE, begin, here, new_blob, open_again, put


class ContentContract:
    """ports.ContentStore."""

    @pytest.mark.parametrize("size", [0, 1, SIZE, 3 << 20])
    def test_written_content_is_read_back(self, store: Store, size: int) -> None:
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
    def test_a_range_is_read(self, store: Store, offset: int, size: int) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            put(leased, data)
            with leased.content.read(digest, offset=offset, size=size) as chunks:
                assert b"".join(chunks) == data[offset : offset + size if size else None]

    def test_read_all_has_a_limit(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            put(leased, data)
            with pytest.raises(ContentError, match=f"content {digest} is larger than {SIZE - 1} bytes"):
                leased.content.read_all(digest, limit=SIZE - 1)

    def test_several_documents_are_read(self, store: Store) -> None:
        """One that is absent is left out, and so may be one that is empty or large."""
        blobs = [new_blob(size) for size in (0, *range(1, 100), 3 << 20)]
        with store.lease("test") as leased:
            for data, _ in blobs:
                put(leased, data)
            wanted = [(digest, len(data)) for data, digest in (*blobs, new_blob(32))]
            documents = [Descriptor(media_type=OCI_CONFIG, digest=one, size=size) for one, size in wanted]
            found = list(leased.content.read_several(documents))
        small = [(digest, data) for data, digest in blobs[1:-1]]
        assert [(digest, data) for digest, data in found if 0 < len(data) < 100] == small
        assert len(found) <= len(blobs)

    def test_errors_for_absent_content_have_its_digest(self, store: Store) -> None:
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
                ingest.commit(labels={"example.com/of": "the commit"})
            assert leased.content.read_all(digest, limit=SIZE) == data
            assert leased.content.info(digest).labels == {"example.com/of": "the commit"}
            assert leased.content.ingests() == ()

    def test_an_error_keeps_written_bytes(self, store: Store) -> None:
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

    def test_aborting_a_write_is_idempotent(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            begin(leased, "layer-x", data, digest, SIZE)
            leased.content.abort("layer-x")
            assert leased.content.ingests() == ()
            leased.content.abort("layer-x")
            with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                assert ingest.offset == 0

    def test_only_one_client_writes_at_a_time(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                with pytest.raises(IngestLocked, match="locked") as caught:
                    open_again(leased, "layer-x", digest, SIZE)
                assert (caught.value.kind, caught.value.name) == ("ingest", "layer-x")
                ingest.write(data)
            with leased.content.open_ingest("layer-x", digest=digest, size=SIZE) as ingest:
                ingest.commit()

    def test_wrong_bytes_are_refused_and_stay_until_aborted(self, store: Store) -> None:
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

    def test_small_blobs_are_written_with_their_labels(self, store: Store) -> None:
        blobs = {"one": new_blob(), "other": new_blob()}
        one, other = (
            SmallBlob(f"layer-{name}", digest, data, {"a": name}) for name, (data, digest) in blobs.items()
        )
        with store.lease("test") as leased:
            begin(leased, other.ref, b"of an earlier client", other.digest, SIZE)
            assert list(leased.content.write_small([one, other])) == [True, True]
            for blob in (one, other):
                assert leased.content.read_all(blob.digest, limit=SIZE) == blob.data
                assert leased.content.info(blob.digest).labels == blob.labels
            assert leased.content.ingests() == ()
            store.collect_garbage()
            assert here(store, one.digest, other.digest) == [True, True]

    def test_a_small_blob_that_cannot_be_written(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            wrong = SmallBlob("layer-x", digest, bytes(SIZE), {})
            assert list(leased.content.write_small([wrong])) == [False]
            assert leased.content.ingests() == ()
            put(leased, data)
            assert list(leased.content.write_small([wrong._replace(data=data)])) == [False]

    def test_existing_content_cannot_be_written(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            put(leased, data)
            with pytest.raises(AlreadyExists, match=f"{digest}: already exists") as caught:
                open_again(leased, "layer-x", digest, SIZE)
            assert (caught.value.kind, caught.value.name) == ("content", digest)
            assert leased.content.ingests() == ()

    def test_existing_content_can_be_written_without_its_digest(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            put(leased, data)
            with leased.content.open_ingest("x", digest=digest, size=SIZE, expected=False) as ingest:
                assert ingest.offset == 0
                ingest.write(data)
                with pytest.raises(AlreadyExists):
                    ingest.commit()
            assert leased.content.ingests() == ()

    def test_content_whose_digest_is_known_only_at_its_end(self, store: Store) -> None:
        data, digest = new_blob()
        with store.lease("test") as leased:
            for stored in (False, True):
                with leased.content.open_ingest("x", digest=None, size=SIZE) as ingest:
                    assert ingest.offset == 0
                    ingest.write(data)
                    if stored:
                        with pytest.raises(AlreadyExists):
                            ingest.commit(digest)
                    else:
                        ingest.commit(digest)
                assert leased.content.ingests() == ()
                assert leased.content.read_all(digest, limit=SIZE) == data

    def test_content_that_another_client_commits_first(self, store: Store) -> None:
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

    @pytest.mark.parametrize("count", [1, 150])
    def test_blobs_are_looked_up_together(self, store: Store, count: int) -> None:
        with store.lease("test") as leased:
            present = [put(leased, os.urandom(10)) for _ in range(min(count, 5))]
            leased.content.set_labels(present[0], {"test/label": "a"})
            absent = [new_blob(10)[1] for _ in range(count)]
            found = leased.content.infos([*present, *absent])
            assert found.keys() == set(present)
            for digest, info in found.items():
                exactly = leased.content.info(digest)
                assert info.updated_at in (exactly.updated_at, None)  # None in a list of containerd 1.x
                assert msgspec.structs.replace(info, updated_at=exactly.updated_at) == exactly
        assert leased.content.infos([]) == {}

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
