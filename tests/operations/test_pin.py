"""Pin and unpin, in memory: which records are changed, and what other clients may do meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pyctrd.errors import ImageNotFound
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import PINNED, PINNED_LABEL, ImageRecord
from pyctrd.operations.pin import pin, unpin
from tests.support import shapes
from tests.support.memory import MemoryImages, MemoryStore

PINS = {PINNED_LABEL: PINNED}
LATE = {EXPIRE_LABEL: "2099-01-01T00:00:00Z"}


def add(store: MemoryStore, name: str, salt: str = "", **labels: str) -> ImageRecord:
    """Add a record; the salt decides its target."""
    target = store.tag(f"{name}-for-its-target", shapes.single(salt=salt).root).target
    store.images.delete(f"{name}-for-its-target")
    return store.images.create(ImageRecord(name=name, target=target, labels=labels))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_all_names_of_the_target_are_pinned_and_no_other(store: MemoryStore) -> None:
    image = add(store, "a:1", team="x")
    for name in ("a:2", "sha256:0123"):
        add(store, name)
    add(store, "b:1", salt="b")
    result = pin(store, [image])
    assert [record.name for record in result.images] == ["a:1", "a:2", "sha256:0123"]
    assert set(result.changed) == {"a:1", "a:2", "sha256:0123"}
    assert store.images.get("a:1").labels == {"team": "x", **PINS}
    assert not store.images.get("b:1").is_pinned
    result = unpin(store, [image])
    assert (len(result.changed), store.images.get("a:1").labels) == (3, {"team": "x"})


def test_pinning_again_changes_nothing(store: MemoryStore) -> None:
    image = add(store, "a:1")
    pin(store, [image])
    before = dict(store.state.images)
    assert pin(store, [image, image]).changed == ()
    assert store.state.images == before
    unpin(store, [image])
    assert unpin(store, [image]).changed == ()


def test_a_pinned_image_does_not_expire(store: MemoryStore) -> None:
    image = add(store, "a:1", **LATE)
    assert pin(store, [image]).images[0].expires_at is None
    pinned_before = add(store, "b:1", salt="b", **PINS, **LATE)
    assert pin(store, [pinned_before]).images[0].labels == PINS


def test_several_images_are_found_by_one_list(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [add(store, f"{number}:1", salt=str(number)) for number in range(20)]
    calls = []
    listing = MemoryImages.list

    def counted(self: MemoryImages, filters: Sequence[str] = ()) -> Sequence[ImageRecord]:
        calls.append(filters)
        return listing(self, filters)

    monkeypatch.setattr(MemoryImages, "list", counted)
    assert len(pin(store, images).images) == 20
    assert len(calls) == 2  # before and after the change


def test_a_name_that_is_created_meanwhile_is_pinned_as_well(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = add(store, "a:1")
    update = MemoryImages.update

    def creating(self: MemoryImages, record: ImageRecord, *, fields: Sequence[str]) -> ImageRecord:
        if "a:2" not in store.state.images:
            self.create(ImageRecord(name="a:2", target=image.target))
        return update(self, record, fields=fields)

    monkeypatch.setattr(MemoryImages, "update", creating)
    assert [record.is_pinned for record in pin(store, [image]).images] == [True, True]


def test_unpin_ends_although_containerd_pins_the_sandbox_image_again(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = add(store, "pause:1", **PINS)
    update = MemoryImages.update

    def pinning(self: MemoryImages, record: ImageRecord, *, fields: Sequence[str]) -> ImageRecord:
        update(self, record, fields=fields)
        return update(self, ImageRecord(name=record.name, target=record.target, labels=PINS), fields=fields)

    monkeypatch.setattr(MemoryImages, "update", pinning)
    result = unpin(store, [image])
    assert (result.changed, result.images[0].is_pinned) == (("pause:1",), True)


def test_an_image_that_was_deleted_meanwhile_is_not_found(store: MemoryStore) -> None:
    image = add(store, "a:1")
    store.images.delete("a:1")
    with pytest.raises(ImageNotFound, match="a:1"):
        pin(store, [image])
