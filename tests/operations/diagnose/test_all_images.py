"""The diagnosis of all images: each row is what a diagnosis of that image says, for a few calls in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import ContentError, NoMatchingPlatform, Unsupported
from pyctrd.oci import platforms
from pyctrd.oci.image_names import MANAGED, MANAGED_LABEL
from pyctrd.oci.model import ContentInfo, Digest, ImageRecord
from pyctrd.oci.platforms import Selection
from pyctrd.operations.diagnose import DiagnosisSummary, diagnose, diagnose_all
from pyctrd.operations.ensure import ensure
from pyctrd.steps.local import LocalImage
from tests.operations.diagnose.world import World, record
from tests.support import shapes
from tests.support.images import Graph, index
from tests.support.memory import MemoryStore, target_of
from tests.support.repository import MemoryRepository
from tests.support.selections import selected

SHAPES: dict[str, Callable[[], Graph]] = {
    "single": shapes.single,
    "single of another platform": lambda: shapes.single("linux/s390x"),
    "five": shapes.five_platform,
    "mixed": shapes.mixed,
    "nested": shapes.nested,
    "nested next to amd64": lambda: index(
        [shapes.multi(["linux/amd64"]).child(0), shapes.multi(["linux/arm64"])]
    ),
    "without platforms": shapes.without_platforms,
    "shared layers": shapes.shared_layers,
    "other platforms only": lambda: shapes.multi(["linux/arm64", "linux/s390x"]),
    "artifact": shapes.artifact,
    "wasm": shapes.wasm,
    "signature": shapes.signature,
    "attested as amd64": shapes.attested_as_amd64,
    "listed for many": lambda: shapes.listed_for_many(5, key="os.version"),
}
SELECTIONS: Sequence[Sequence[str]] = [
    [],
    ["linux/arm64"],
    ["linux/amd64,linux/arm64"],
    ["all"],
    ["local"],
    ["linux/riscv64"],
]
HOST = platforms.parse("linux/amd64")


def selection_of(values: Sequence[str]) -> Selection:
    return msgspec.structs.replace(selected(*values), host=HOST)


def laid_out(graph: Graph, removed: set[int]) -> tuple[MemoryStore, ImageRecord]:
    store = MemoryStore()
    store.put(graph.blobs)
    image = store.tag("registry.example/team/app:1", graph.root)
    blobs = sorted(graph.blobs)
    for number in removed:
        store.state.blobs.pop(Digest(blobs[number % len(blobs)]), None)
    return store, image


def only(found: Sequence[DiagnosisSummary]) -> DiagnosisSummary:
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("shape", SHAPES)
@given(removed=st.sets(st.integers(0, 30)), values=st.sampled_from(SELECTIONS))
def test_a_row_is_the_diagnosis_of_that_image(shape: str, removed: set[int], values: Sequence[str]) -> None:
    graph = SHAPES[shape]()
    store, image = laid_out(graph, removed)
    selection = selection_of(values)
    row = only(diagnose_all([store], selection))
    single = diagnose(store, image, selection)
    assert (row.image, row.namespace, row.target) == (single.image, single.namespace, single.target)
    assert row.complete == single.complete
    assert row.missing_bytes == single.missing_bytes
    assert row.missing_blobs == len(single.missing)
    assert row.missing_known == single.missing_known
    assert row.remedy == single.remedy
    assert (row.cause is None) <= row.complete or not single.causes
    if row.cause is not None:
        # Its evidence may lack what needs a search of the content.
        assert [row.cause.text, row.cause.missing] in [[one.text, one.missing] for one in single.causes]
    assert row.error is None


@pytest.mark.parametrize("shape", SHAPES)
@given(removed=st.sets(st.integers(0, 30), min_size=1), values=st.sampled_from(SELECTIONS[:4]))
def test_the_remedy_completes_the_image(shape: str, removed: set[int], values: Sequence[str]) -> None:
    graph = SHAPES[shape]()
    store, image = laid_out(graph, removed)
    row = only(diagnose_all([store], selection_of(values)))
    if row.remedy is None:
        assert row.complete or (row.cause and row.cause.code == "no_such_platform")
        return
    assert row.remedy.images == (image.name,)
    wanted = ["all"] if row.remedy.all_platforms else list(row.remedy.platforms)
    remote = MemoryRepository()
    remote.publish(graph)
    try:
        targets = selection_of(wanted).resolve(LocalImage(store, image.target).platforms)
        ensure(store, image, targets, lambda _image: [remote])
    except NoMatchingPlatform:  # an absent index turned out not to have it
        return
    after = only(diagnose_all([store], selection_of(values)))
    assert after.complete or (after.cause and after.cause.code == "no_such_platform")


def test_the_cause_is_about_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "host", lambda: HOST)
    world = World()
    native = world.manifest("linux/amd64", ["a", "b"])
    foreign = world.manifest("linux/arm64", ["c", "d"])
    world.images.records.append(record(world.index(foreign, native)))
    world.unpack("a", "b")
    for manifest in (native, foreign):
        world.remove(*world.below(manifest)[1])
    world.unlabel(native, "l.")
    row = only(diagnose_all([world.store], selection_of([])))
    assert row.cause
    assert (row.cause.code, row.cause.platform) == ("gc_label_lost", "linux/amd64")
    assert row.missing_blobs == 2


def test_an_image_without_the_platform_is_said_to_have_none() -> None:
    store, _image = laid_out(shapes.multi(["linux/arm64"]), set())
    row = only(diagnose_all([store], selection_of([])))
    assert not row.complete
    assert row.cause
    assert (row.cause.code, row.cause.platform) == ("no_such_platform", "linux/amd64")
    assert row.remedy is None
    assert row.missing_bytes == 0
    assert only(diagnose_all([store], selection_of(["local"]))).complete


def test_unreadable_documents_of_one_image_do_not_end_the_list() -> None:
    store = MemoryStore()
    broken, whole = shapes.single(salt="broken"), shapes.single(salt="whole")
    for name, graph in (("a:1", broken), ("b:1", whole)):
        store.put(graph.blobs)
        store.tag(name, graph.root)
    store.state.blobs[Digest(broken.digest)] = b"{"
    first, second = diagnose_all([store], selection_of([]))
    assert isinstance(first.error, ContentError)
    assert not first.complete
    assert second.complete


def test_an_unknown_snapshotter_is_an_error() -> None:
    store, _image = laid_out(shapes.single(), {0, 1, 2})
    error = Unsupported("snapshotter not loaded: nix", code="INVALID_ARGUMENT")

    def listing(_snapshotter: str) -> Iterator[Any]:
        raise error

    store.snapshots.list = listing  # type: ignore[method-assign,assignment]
    store.state.blobs.update({Digest(key): data for key, data in shapes.single().blobs.items()})
    layer = next(key for key, data in store.state.blobs.items() if not data.startswith(b"{"))
    del store.state.blobs[layer]
    with pytest.raises(Unsupported):
        diagnose_all([store], selection_of([]), snapshotter="nix")


def test_cri_records_of_an_image_are_aliases_of_its_tag() -> None:
    graph = shapes.single()
    store = MemoryStore()
    store.put(graph.blobs)
    config = graph.document()["config"]["digest"]
    by_digest = f"registry.example/team/app@{graph.digest}"
    for name in ("registry.example/team/app:1", "registry.example/team/app:2", by_digest, config):
        store.tag(name, graph.root)
    store.tag(f"elsewhere.example/app@{graph.digest}", graph.root)
    for name, image in store.state.images.items():
        managed = msgspec.structs.replace(image, labels={MANAGED_LABEL: MANAGED})
        store.state.images[name] = managed
    found = {item.image: item.alias_of for item in diagnose_all([store], selection_of([]))}
    assert found == {
        "registry.example/team/app:1": "",
        "registry.example/team/app:2": "",
        by_digest: "registry.example/team/app:1",
        config: "registry.example/team/app:1",
        f"elsewhere.example/app@{graph.digest}": "",
    }


class _Counted(MemoryStore):
    """A store that counts calls, and has documents of its own for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._inside = False  # calls that a service makes itself do not count
        for part in ("content", "images", "snapshots"):
            for method in ("info", "read_all", "list", "get", "stat"):
                if hasattr(getattr(self, part), method):
                    self._count(part, method)

    def _count(self, part: str, method: str) -> None:
        service = getattr(self, part)
        inner = getattr(service, method)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls[f"{part}.{method}"] += not self._inside
            outer, self._inside = self._inside, True
            try:
                return inner(*args, **kwargs)
            finally:
                self._inside = outer

        setattr(service, method, counting)


@pytest.mark.parametrize("broken", [False, True])
def test_calls_for_10000_records(broken: bool) -> None:
    """Content and snapshots are listed once; each document is read once; no blob is asked for."""
    store = _Counted()
    graphs = [shapes.mixed(3, salt=str(number)) for number in range(50)]
    for graph in graphs:
        store.put(graph.blobs)
        if broken:
            layers = [digest for digest, data in graph.blobs.items() if not data.startswith(b"{")]
            del store.state.blobs[Digest(layers[0])]
    for number in range(10_000):
        graph = graphs[number % 50]
        image = ImageRecord(name=f"registry.example/app:{number}", target=target_of(graph.root))
        store.state.images[image.name] = image
    found = diagnose_all([store], selection_of([]))
    assert len(found) == 10_000
    assert {item.complete for item in found} == {not broken}
    documents = sum(len([1 for data in graph.blobs.values() if data.startswith(b"{")]) for graph in graphs)
    assert store.calls["images.list"] == store.calls["content.list"] == 1
    assert store.calls["snapshots.list"] == (1 if broken else 0)
    assert store.calls["snapshots.stat"] == 0
    if broken:
        assert store.calls["content.read_all"] <= documents
        assert store.calls["content.info"] <= documents
    else:
        assert store.calls["content.read_all"] == 100  # an index and a manifest of each image
        assert store.calls["content.info"] == 0


def test_documents_are_read_once_for_each_of_many_images() -> None:
    """With more documents than are kept in memory, each is still read once."""
    store = _Counted()
    for number in range(200):
        graph = shapes.large_config(40_000, salt=str(number))
        store.put(graph.blobs)
        store.tag(f"registry.example/app:{number}", graph.root)
    assert all(item.complete for item in diagnose_all([store], selection_of([])))
    assert store.calls["content.read_all"] == 400  # a manifest and a config of each image


def test_content_of_another_namespace_is_looked_up_in_its_list() -> None:
    graph = shapes.single()
    store, _image = laid_out(graph, set())
    for digest, data in graph.blobs.items():
        if not data.startswith(b"{"):
            del store.state.blobs[Digest(digest)]
    other = _Counted()
    other.namespace = "k8s.io"
    other.put(graph.blobs)
    asked: list[str] = []

    def sharing(one: Any) -> list[_Counted]:
        asked.append(one.namespace)
        return [other]

    row = only(diagnose_all([store], selection_of([]), sharing=sharing))
    assert not row.complete
    assert asked == ["default"]
    assert other.calls["content.info"] == 0
    assert isinstance(next(other.content.list()), ContentInfo)


def test_only_wanted_images_are_diagnosed() -> None:
    """The others are not read either, but still tell which names are aliases of CRI."""
    store = MemoryStore()
    wanted, other = shapes.single(salt="wanted"), shapes.single(salt="other")
    store.put(wanted.blobs)
    store.tag("registry.example/wanted:1", wanted.root)
    store.tag("registry.example/other:1", other.root)
    found = diagnose_all(
        [store], selection_of([]), wanted=lambda _store, image: image.name.endswith("wanted:1")
    )
    assert [(item.image, item.complete) for item in found] == [("registry.example/wanted:1", True)]
