"""Images that expire: the time, a pull with and without it, and what is refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from pyctrd.errors import FailedPrecondition, InvalidInput, Remedy, Unsupported
from pyctrd.oci.expiry import EXPIRE_LABEL, expire_label
from pyctrd.oci.model import PINNED, PINNED_LABEL, ImageRecord
from pyctrd.oci.platforms import host, select, to_string
from pyctrd.oci.resources import DaemonVersion
from pyctrd.operations.pull import PullOptions, check_expiry, pull
from tests.support import shapes
from tests.support.images import Graph
from tests.support.memory import MemoryStore
from tests.support.repository import MemoryRepository

NAME = "registry.example/team/app:latest"
WEEK = dt.timedelta(days=7)
SINGLE = shapes.single()


def pulled(store: MemoryStore, graph: Graph = SINGLE, **options: Any) -> ImageRecord:
    remote = MemoryRepository()
    remote.publish(graph)
    return pull(store, remote, NAME, PullOptions(**options)).image


@pytest.mark.parametrize(("text", "year"), [("2099-01-01T00:00:00Z", 2099), ("soon", None), ("", None)])
def test_a_record_expires_only_at_a_valid_time(text: str, year: int | None) -> None:
    record = ImageRecord(name=NAME, target=MemoryStore().tag(NAME, SINGLE.root).target)
    assert record.expires_at is None
    expires = msgspec.structs.replace(record, labels={EXPIRE_LABEL: text}).expires_at
    assert (expires and expires.year) == year


def test_a_time_is_rounded_up_to_a_second() -> None:
    now = dt.datetime(2026, 11, 27, 19, 0, 0, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    assert expire_label(dt.timedelta(minutes=1), now) == {EXPIRE_LABEL: "2026-11-27T18:01:01Z"}
    exact = now.replace(microsecond=0)
    assert expire_label(dt.timedelta(days=36_525), exact) == {EXPIRE_LABEL: "2126-11-28T18:00:00Z"}


def test_the_time_begins_when_the_image_is_complete() -> None:
    store = MemoryStore()
    begin = dt.datetime.now(dt.UTC)
    expires = pulled(store, ttl=WEEK, labels={"team": "x"}).expires_at
    assert expires is not None
    assert begin + WEEK <= expires <= dt.datetime.now(dt.UTC) + WEEK + dt.timedelta(seconds=1)
    assert store.images.get(NAME).labels["team"] == "x"


def test_a_pull_without_expiry_lets_an_image_stay() -> None:
    store = MemoryStore()
    pulled(store, ttl=WEEK, labels={"team": "x"})
    assert pulled(store).expires_at is None
    assert store.images.get(NAME).labels == {"team": "x"}
    assert pulled(store, ttl=WEEK).expires_at is not None


def test_the_expiry_cannot_be_given_twice() -> None:
    with pytest.raises(InvalidInput, match="cannot specify both `ttl` and the label"):
        pulled(MemoryStore(), ttl=WEEK, labels={EXPIRE_LABEL: "2099-01-01T00:00:00Z"})


@pytest.mark.parametrize("version", ["1.6.20~ds1", "v1.7.24"])
def test_containerd_1_refuses_expiry(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    check_expiry(store, NAME, PullOptions(ttl=WEEK))
    monkeypatch.setattr(store, "version", lambda: DaemonVersion(version=version))
    check_expiry(store, NAME, PullOptions())
    with pytest.raises(Unsupported, match="images do not expire in containerd"):
        check_expiry(store, NAME, PullOptions(ttl=WEEK))


def test_a_pinned_image_cannot_expire() -> None:
    store = MemoryStore()
    pulled(store, labels={PINNED_LABEL: PINNED})
    check_expiry(store, NAME, PullOptions())
    with pytest.raises(FailedPrecondition, match="is pinned, so it cannot expire") as caught:
        check_expiry(store, NAME, PullOptions(ttl=WEEK))
    assert caught.value.remedy == Remedy(method="unpin", images=(NAME,))


# --- the kubelet's namespace ------------------------------------------------------------------------------


def id_of(graph: Graph) -> str:
    return str(graph.document()["config"]["digest"])


def test_the_id_for_the_kubelet_expires_with_the_image() -> None:
    """Its services create the id, without an expiry, for a name that does not have their label."""
    graph = shapes.multi([to_string(host()), "linux/s390x"])
    store = MemoryStore(namespace="k8s.io")
    image = pulled(store, graph, ttl=WEEK)
    assert image.labels["io.cri-containerd.image"] == "managed"
    assert store.images.get(id_of(graph.child(0))).labels == image.labels
    assert len(store.images.list()) == 2
    for ttl in (2 * WEEK, WEEK / 2):
        image = pulled(store, graph, ttl=ttl)
        assert store.images.get(id_of(graph.child(0))).labels == image.labels
    pulled(store, graph)
    assert [record.expires_at for record in store.images.list()] == [None, None]


@pytest.mark.parametrize(
    ("other", "id_labels", "expires"),
    [
        (None, {}, True),
        ({EXPIRE_LABEL: "2020-01-01T00:00:00Z"}, {}, True),
        ({EXPIRE_LABEL: "2099-01-01T00:00:00Z"}, {}, False),
        ({}, {}, False),
        (None, {PINNED_LABEL: PINNED}, False),
    ],
)
def test_an_existing_id_expires_unless_another_name_needs_it(
    other: dict[str, str] | None, id_labels: dict[str, str], expires: bool
) -> None:
    graph = shapes.single(to_string(host()))
    store = MemoryStore(namespace="k8s.io")
    target = pulled(store, graph).target
    store.images.create(ImageRecord(name=id_of(graph), target=target, labels=id_labels))
    if other is not None:
        store.images.create(ImageRecord(name="other:1", target=target, labels=other))
    pulled(store, graph, ttl=WEEK)
    record = store.images.get(id_of(graph))
    assert (record.expires_at is not None, record.is_pinned) == (expires, PINNED_LABEL in id_labels)


def test_there_is_no_id_for_another_platform_or_namespace_or_without_expiry() -> None:
    foreign = shapes.multi(["linux/s390x"])
    selection = select("linux/s390x")
    for store, graph, options in (
        (MemoryStore(namespace="k8s.io"), foreign, {"ttl": WEEK, "platforms": selection}),
        (MemoryStore(), shapes.single(), {"ttl": WEEK}),
        (MemoryStore(namespace="k8s.io"), shapes.single(), {}),
    ):
        pulled(store, graph, **options)
        assert list(store.state.images) == [NAME]
