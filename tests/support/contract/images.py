"""The contract of ports.ImageStore."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyctrd.errors import AlreadyExists, NotFound
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, ImageRecord
from pyctrd.ports import Store
from tests.support.contract.blobs import new_blob


class ImageContract:
    """ports.ImageStore."""

    NAME = "registry.example/team/app:1"

    def record(self, **labels: str) -> ImageRecord:
        data, digest = new_blob(16)  # of fewer bytes, two would be the same now and then
        target = Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=digest, size=len(data))
        return ImageRecord(name=self.NAME, target=target, labels=labels)

    def test_a_record_can_be_created_once(self, store: Store) -> None:
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

    def test_an_update_must_name_its_fields(self, store: Store) -> None:
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

    def test_errors_for_absent_records_have_their_name(self, store: Store) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.images.get(self.NAME),
            lambda: store.images.delete(self.NAME),
            lambda: store.images.update(self.record(), fields=["target"]),
        ]
        for call in calls:
            with pytest.raises(NotFound, match=f'image "{self.NAME}": not found') as caught:
                call()
            assert (caught.value.kind, caught.value.name) == ("image", self.NAME)
