"""Labels of an image record: what is changed, what is refused, and why."""

from __future__ import annotations

import pytest

from pyctrd.errors import InvalidInput, Remedy
from pyctrd.oci.model import ImageRecord
from pyctrd.operations.label import check, label
from tests.support import shapes
from tests.support.memory import MemoryStore


def image(store: MemoryStore, **labels: str) -> ImageRecord:
    target = store.tag("a:2", shapes.single().root).target
    return store.images.create(ImageRecord(name="a:1", target=target, labels=labels))


def test_labels_are_set_and_removed_and_others_stay() -> None:
    store = MemoryStore()
    record = image(store, stays="1", goes="2", changes="3")
    changed = label(store, record, {"new": "=,", "goes": "", "changes": "4", "absent": ""})
    assert changed.labels == {"stays": "1", "changes": "4", "new": "=,"}
    assert store.images.get("a:2").labels == {}


def test_nothing_is_written_if_nothing_changes() -> None:
    store = MemoryStore()
    record = image(store, a="1")
    assert label(store, record, {"a": "1", "absent": ""}) is record
    assert store.images.get("a:1") is record


@pytest.mark.parametrize(
    ("key", "value", "reason", "remedy"),
    [
        ("containerd.io/gc.expire", "x", "containerd 2 removes the image", Remedy(force=True)),
        ("containerd.io/gc.ref.content.0", "x", "the garbage collector reads", Remedy(force=True)),
        ("containerd.io/gc.bref.image", "", "the garbage collector reads", Remedy(force=True)),
        ("io.cri-containerd.image", "", "the kubelet's services read", Remedy(force=True)),
        ("io.cri-containerd.pinned", "x", "the kubelet does not remove", Remedy(force=True)),
        (
            *("io.cri-containerd.pinned", "pinned", "the kubelet does not remove"),
            Remedy(method="pin", images=("a:1",)),
        ),
        (
            *("io.cri-containerd.pinned", "", "the kubelet does not remove"),
            Remedy(method="unpin", images=("a:1",)),
        ),
    ],
)
def test_labels_that_others_read_need_force(key: str, value: str, reason: str, remedy: Remedy) -> None:
    with pytest.raises(InvalidInput, match=f"label {key}: {reason}") as caught:
        check("a:1", {key: value}, force=False)
    assert caught.value.remedy == remedy
    check("a:1", {key: value}, force=True)


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    ("labels", "message"),
    [({"": "x"}, "needs a key"), ({"k" * 96: "v" * 4001}, "4097 bytes"), ({"k": "\udcff"}, "UTF-8")],
)
def test_labels_that_containerd_would_refuse_are_refused(
    labels: dict[str, str], message: str, force: bool
) -> None:
    with pytest.raises(InvalidInput, match=message):
        check("a:1", labels, force=force)
    check("a:1", {"k" * 96: "v" * 4000}, force=False)
