"""Removal of images by name and by id, and of those in use."""

from __future__ import annotations

import datetime as dt
from functools import partial

import msgspec
import pytest

from pyctrd.errors import ImageInUse, ImageNotFound, Remedy
from pyctrd.oci.image_names import MANAGED, MANAGED_LABEL
from pyctrd.oci.mediatypes import GC_REF_SNAPSHOT
from pyctrd.oci.model import PINNED, PINNED_LABEL, ImageRecord, SnapshotInfo
from pyctrd.oci.resources import Container
from pyctrd.operations import lookup
from pyctrd.operations.remove import RemoveOptions, remove
from pyctrd.steps.removal import KeptImage, Reference, RemoveResult
from tests.support import shapes
from tests.support.memory import SNAPSHOTTER, MemoryStore

APP = "docker.io/library/app:1"
OTHER = "docker.io/library/app:latest"
CONFIG = f"sha256:{64 * 'c'}"


@pytest.fixture
def store() -> MemoryStore:
    """An image with two names, and another one."""
    store = MemoryStore()
    graph, other = shapes.single(), shapes.five_platform()
    store.put({graph.digest: graph.blobs[graph.digest], other.digest: other.blobs[other.digest]})
    store.tag(APP, graph.root)
    store.tag(OTHER, graph.root)
    store.tag("docker.io/library/free:1", other.root)
    return store


def run(store: MemoryStore, *refs: str, **options: bool) -> RemoveResult:
    return remove(
        store,
        refs,
        RemoveOptions(**options),
        find=partial(lookup.find, store.images),
        now=dt.datetime(2026, 11, 27, tzinfo=dt.UTC),
    )


def label(store: MemoryStore, name: str, **labels: str) -> ImageRecord:
    record = store.state.images[name]
    store.state.images[name] = msgspec.structs.replace(record, labels=labels)
    return record


def cri(store: MemoryStore) -> None:
    """Turn the names of the image into CRI's records."""
    record = label(store, APP, **{MANAGED_LABEL: MANAGED})
    for name in (OTHER, CONFIG):
        store.state.images[name] = msgspec.structs.replace(record, name=name, labels={MANAGED_LABEL: MANAGED})


@pytest.mark.parametrize("ref", [APP, "app:1"])
def test_a_name_removes_this_name_only(store: MemoryStore, ref: str) -> None:
    result = run(store, ref)
    kept = KeptImage(name=APP, by=(Reference(kind="image", name=OTHER),))
    assert result == RemoveResult(images=(APP,), kept=(kept,))
    assert OTHER in store.state.images


@pytest.mark.parametrize("how", ["digest", "prefix", "all names"])
def test_an_id_removes_all_names(store: MemoryStore, how: str) -> None:
    digest = store.state.images[APP].target.digest
    ref = {"digest": str(digest), "prefix": digest.encoded[:10], "all names": APP}[how]
    result = run(store, ref, all_names=how == "all names")
    assert (result.images, [blob.digest for blob in result.blobs]) == ((APP, OTHER), [digest])
    assert result.kept == ()
    assert [*store.state.images] == ["docker.io/library/free:1"]
    assert digest not in store.state.blobs


def test_the_id_that_crictl_shows_removes_all_names(store: MemoryStore) -> None:
    cri(store)
    assert run(store, CONFIG).images == (APP, OTHER, CONFIG)


@pytest.mark.parametrize("options", [{"dry_run": True}, {"sync": False}, {}])
def test_the_result_is_the_same_before_and_after(store: MemoryStore, options: dict[str, bool]) -> None:
    predicted = run(store, APP, "free:1", dry_run=True)
    assert [len(predicted.images), len(predicted.blobs)] == [2, 1]
    assert run(store, APP, "free:1", **options) == predicted
    assert len(store.state.images) == (3 if options.get("dry_run") else 1)
    assert len(store.state.blobs) == (1 if not options else 2)


def test_nothing_is_removed_if_an_image_is_not_found(store: MemoryStore) -> None:
    before = dict(store.state.images)
    with pytest.raises(ImageNotFound):
        run(store, APP, "missing:1")
    assert store.state.images == before


def test_an_image_in_use_is_refused(store: MemoryStore) -> None:
    before = dict(store.state.images)
    store.state.containers["web"] = Container(id="web", image=APP)
    with pytest.raises(ImageInUse) as caught:
        run(store, APP, "free:1")
    assert caught.value.message == f'image "{APP}" is in use by container web: nothing was removed'
    assert caught.value.images == (APP,)
    assert caught.value.remedy == Remedy(method="remove", images=(APP, "free:1"), force=True)
    assert store.state.images == before
    assert run(store, APP, "free:1", force=True).images == (APP, "docker.io/library/free:1")


def test_another_name_of_an_image_in_use_may_go(store: MemoryStore) -> None:
    store.state.containers["web"] = Container(id="web", image=APP)
    assert run(store, OTHER).images == (OTHER,)
    with pytest.raises(ImageInUse):
        run(store, str(store.state.images[APP].target.digest))


@pytest.mark.parametrize("named", [APP, CONFIG])
def test_all_of_cri_s_records_of_an_image_are_in_use(store: MemoryStore, named: str) -> None:
    cri(store)
    store.state.containers |= {name: Container(id=name, image=named) for name in ("c", "a", "b", "d")}
    with pytest.raises(ImageInUse, match=r"is in use by containers a, b, c, \.\.\.: nothing"):
        run(store, OTHER)


def test_an_image_is_in_use_if_the_name_of_its_container_has_moved(store: MemoryStore) -> None:
    """The container still runs on the image's snapshot, and this is the last name of it."""
    digest = store.state.images[APP].target.digest
    store.content.set_labels(digest, {f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}": "top"})
    top = SnapshotInfo(name="top", kind="committed")
    store.state.snapshots |= {
        (SNAPSHOTTER, "top"): top,
        (SNAPSHOTTER, "web"): SnapshotInfo(name="web", parent="top", kind="active"),
    }
    store.state.containers["web"] = Container(
        id="web", image="docker.io/library/free:1", snapshotter=SNAPSHOTTER, snapshot_key="web"
    )
    with pytest.raises(ImageInUse, match="is in use by container web"):
        run(store, str(digest))
    with pytest.raises(ImageInUse, match="is in use by container web"):
        run(store, "free:1")


def test_an_image_of_cri_is_in_use_if_the_tag_of_its_container_has_moved(store: MemoryStore) -> None:
    cri(store)
    snapshots = store.state.snapshots
    snapshots[SNAPSHOTTER, "top"] = SnapshotInfo(name="top", kind="committed")
    snapshots[SNAPSHOTTER, "rw"] = SnapshotInfo(name="rw", parent="top", kind="active")
    target = store.state.images[APP].target.digest
    store.content.set_labels(target, {f"{GC_REF_SNAPSHOT}{SNAPSHOTTER}": "top"})
    store.state.containers["c"] = Container(
        id="c", image="docker.io/library/free:1", snapshotter=SNAPSHOTTER, snapshot_key="rw"
    )
    with pytest.raises(ImageInUse, match="is in use by container c: nothing"):
        run(store, APP)


def test_a_pinned_image_is_refused(store: MemoryStore) -> None:
    label(store, APP, **{PINNED_LABEL: PINNED})
    with pytest.raises(ImageInUse, match=r"is pinned \(label io\.cri-containerd\.pinned\): nothing"):
        run(store, APP)
    assert run(store, OTHER).images == (OTHER,)
    assert run(store, APP, force=True).images == (APP,)


def test_the_error_names_a_few_images(store: MemoryStore) -> None:
    record = store.state.images[APP]
    for number in range(5):
        name = f"docker.io/library/app:{number}"
        store.state.images[name] = msgspec.structs.replace(record, name=name)
        store.state.containers[f"c{number}"] = Container(id=f"c{number}", image=name)
    with pytest.raises(ImageInUse, match="and 2 more: nothing was removed") as caught:
        run(store, APP, all_names=True)
    assert len(caught.value.images) == 5
    assert caught.value.remedy is not None
    assert OTHER in caught.value.remedy.images
