"""Tag, in memory: names, labels, expiry, and other clients that work on the same names."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

import msgspec
import pytest

from pyctrd.errors import (
    AlreadyExists,
    FailedPrecondition,
    ImageNotFound,
    InvalidReference,
    Remedy,
    Unsupported,
)
from pyctrd.oci import reference
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import PINNED, PINNED_LABEL, Digest, ImageRecord
from pyctrd.oci.resources import DaemonVersion
from pyctrd.operations.tag import TagResult, tag
from tests.support import shapes
from tests.support.memory import MemoryImages, MemoryStore

NAME = "registry.example/app:1"
NEW = "registry.example/app:stable"
WEEK = dt.timedelta(days=7)
PAST = "2020-01-01T00:00:00Z"


def stored(name: str = NAME, salt: str = "a", **labels: str) -> tuple[MemoryStore, ImageRecord]:
    """Return a store with one image."""
    store = MemoryStore()
    return store, add(store, name, salt, **labels)


def run(
    store: MemoryStore,
    image: ImageRecord,
    *names: str,
    force: bool = False,
    ttl: dt.timedelta | None = None,
) -> TagResult:
    return tag(store, image, [reference.parse(name) for name in names], force=force, ttl=ttl)


def add(store: MemoryStore, name: str, salt: str = "other", **labels: str) -> ImageRecord:
    """Add an image; the salt decides its content."""
    graph = shapes.single(salt=salt)
    store.put(graph.blobs)
    image = store.tag(name, graph.root)
    changed = msgspec.structs.replace(image, labels=labels)
    return store.images.update(changed, fields=["labels"])


def test_names_are_completed_and_each_is_set_once() -> None:
    store, image = stored()
    result = run(store, image, "app", "app:latest", "app:2")
    assert [record.name for record in result.tagged] == [
        "docker.io/library/app:latest",
        "docker.io/library/app:2",
    ]
    assert {record.target for record in store.images.list()} == {image.target}
    assert store.state.leases == {}


def test_labels_are_copied_except_those_for_the_collector() -> None:
    store, image = stored(
        **{
            "team": "x",
            PINNED_LABEL: PINNED,
            EXPIRE_LABEL: "2099-01-01T00:00:00Z",
            "containerd.io/gc.bref.image": "parent",
        }
    )
    assert run(store, image, NEW).tagged[0].labels == {"team": "x", PINNED_LABEL: PINNED}


def test_a_name_that_points_elsewhere_is_refused_and_nothing_is_changed() -> None:
    store, image = stored()
    add(store, NEW)
    before = dict(store.state.images)
    with pytest.raises(AlreadyExists, match="already exists: it points at sha256:") as caught:
        run(store, image, "registry.example/app:first", NEW)
    assert store.state.images == before
    assert caught.value.remedy == Remedy(
        method="tag", images=(NAME, "registry.example/app:first", NEW), force=True
    )


def test_the_same_target_is_success_without_a_change() -> None:
    store, image = stored()
    (first,) = run(store, image, NEW).tagged
    (second,) = run(store, image, NEW).tagged
    assert second == first


def test_force_moves_a_name_and_keeps_its_other_labels() -> None:
    store, image = stored(team="x")
    add(store, NEW, owner="y", **{EXPIRE_LABEL: "2099-01-01T00:00:00Z"})
    (record,) = run(store, image, NEW, force=True).tagged
    assert (record.target, record.labels) == (image.target, {"team": "x", "owner": "y"})


@pytest.mark.parametrize("ttl", [None, WEEK])
def test_force_does_not_move_a_pinned_name(ttl: dt.timedelta | None) -> None:
    store, image = stored()
    add(store, NEW, **{PINNED_LABEL: PINNED})
    with pytest.raises(FailedPrecondition, match="is pinned") as caught:
        run(store, image, NEW, force=True, ttl=ttl)
    assert caught.value.remedy == Remedy(method="unpin", images=(NEW,))


def test_a_name_expires_after_its_time() -> None:
    store, image = stored()
    before = dt.datetime.now(dt.UTC)
    (record,) = run(store, image, NEW, ttl=WEEK).tagged
    after = dt.datetime.now(dt.UTC)
    assert record.expires_at is not None
    assert before + WEEK <= record.expires_at <= after + WEEK + dt.timedelta(seconds=1)
    assert store.images.get(NAME).expires_at is None


def test_tagging_the_same_target_sets_or_removes_only_the_expiry() -> None:
    store, image = stored(team="x")
    (expiring,) = run(store, image, NAME, ttl=WEEK).tagged
    assert expiring.expires_at is not None
    (lasting,) = run(store, image, NAME).tagged
    assert (lasting.expires_at, lasting.labels) == (None, {"team": "x"})


def test_an_expiring_name_of_a_pinned_image_is_not_pinned_itself() -> None:
    store, image = stored(**{PINNED_LABEL: PINNED})
    (record,) = run(store, image, NEW, ttl=WEEK).tagged
    assert not record.is_pinned
    with pytest.raises(FailedPrecondition, match="cannot expire"):
        run(store, image, NAME, ttl=WEEK)


def test_containerd_1_refuses_expiry_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    store, image = stored()
    monkeypatch.setattr(store, "version", lambda: DaemonVersion(version="1.7.24~ds1"))
    before = dict(store.state.images)
    with pytest.raises(Unsupported, match=r"images do not expire in containerd 1\.7\.24"):
        run(store, image, NEW, ttl=WEEK)
    assert store.state.images == before


def test_a_digest_in_a_name_must_be_that_of_the_image() -> None:
    store, image = stored()
    assert run(store, image, f"app@{image.target.digest}").tagged[0].target == image.target
    with pytest.raises(InvalidReference, match="the digest of"):
        run(store, image, f"app@{Digest.of(b'x')}")


def test_a_missing_target_is_reported_with_the_command() -> None:
    store, image = stored()
    store.state.remove_blob(image.target.digest)
    with pytest.raises(IncompleteContent, match="content digest sha256:") as caught:
        run(store, image, NEW)
    assert caught.value.remedy == Remedy(method="ensure", images=(NAME,), all_platforms=True)


def test_an_image_that_was_deleted_in_the_meantime_is_not_found() -> None:
    store, image = stored()
    store.images.delete(NAME, sync=True)
    with pytest.raises(ImageNotFound):
        run(store, image, NEW)
    assert store.state.images == {}


Create = Callable[[MemoryImages, ImageRecord], ImageRecord]


def before_create(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[Create, MemoryImages, str], None]
) -> None:
    """Let another client act before each creation of a record."""
    create = MemoryImages.create

    def acting(self: MemoryImages, image: ImageRecord) -> ImageRecord:
        action(create, self, image.name)
        return create(self, image)

    monkeypatch.setattr(MemoryImages, "create", acting)


def test_the_content_survives_the_deletion_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    store, image = stored()

    def delete(_create: Create, images: MemoryImages, _name: str) -> None:
        images.delete(NAME, sync=True)

    before_create(monkeypatch, delete)
    run(store, image, NEW)
    store.collect_garbage()
    assert list(store.state.images) == [NEW]
    assert image.target.digest in store.state.blobs


@pytest.mark.parametrize("same", [True, False])
def test_a_name_that_another_client_creates_first_is_checked_as_well(
    monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    store, image = stored()
    target = (image if same else add(store, "registry.example/other:1")).target

    def create_first(create: Create, images: MemoryImages, name: str) -> None:
        if name not in store.state.images:
            create(images, ImageRecord(name=name, target=target))

    before_create(monkeypatch, create_first)
    if same:
        assert run(store, image, NEW).tagged[0].target == target
        return
    with pytest.raises(AlreadyExists):
        run(store, image, NEW)


def test_a_name_that_another_client_deletes_meanwhile_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    store, image = stored()
    add(store, NEW)
    update = MemoryImages.update

    def deleting(self: MemoryImages, record: ImageRecord, *, fields: Sequence[str]) -> ImageRecord:
        self.delete(record.name)
        return update(self, record, fields=fields)

    monkeypatch.setattr(MemoryImages, "update", deleting)
    assert run(store, image, NEW, force=True).tagged[0].target == image.target
