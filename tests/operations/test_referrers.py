"""Referrers (signatures, SBOMs) in save and load, in memory: found, fetched, saved, loaded, kept."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pyctrd.errors import ArchiveError, ContentError, InvalidInput, RegistryError
from pyctrd.oci import referrers
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.operations.save import SaveOptions, SaveResult, plan, save
from pyctrd.ports import Fetcher, ReferrerSource
from tests.support import images, shapes
from tests.support.images import Blob, Graph
from tests.support.loading import NAME, archive_of, entry, layout
from tests.support.loading import Bench as FarSide
from tests.support.memory import MemoryStore, target_of
from tests.support.repository import MemoryRepository
from tests.support.saving import Archive
from tests.support.selections import selected
from tests.support.tars import tar_of

SBOM = "application/spdx+json"
PIPE = pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])


def artifact(subject: Graph) -> Graph:
    return shapes.artifact(subject=subject)


def signature(subject: Graph) -> Graph:
    return shapes.signature(subject=subject)


class NearSide:
    """An image in a store, and its registry."""

    def __init__(self, graph: Graph, *attached: Graph, name: str = NAME) -> None:
        self.graph = graph
        self.store = MemoryStore()
        self.store.put(graph.blobs)
        self.records = [self.store.tag(name, graph.root)]
        self.registry = MemoryRepository()
        self.registry.publish(graph)
        for one in attached:
            self.registry.blobs.update(one.blobs)
        self.sources: list[ReferrerSource] = [self.registry]

    def fetchers(self, _image: ImageRecord) -> Sequence[Fetcher]:
        return [self.registry]

    def referrer_sources(self, _image: ImageRecord) -> Sequence[ReferrerSource]:
        return self.sources

    def _options(self, *platforms: str, **options: Any) -> SaveOptions:
        return SaveOptions(platforms=selected(*platforms), **{"referrers": True, **options})

    def save(self, *platforms: str, **options: Any) -> Archive:
        output = io.BytesIO()
        result = save(
            self.store,
            self.records,
            self._options(*platforms, **options),
            output,
            fetchers=self.fetchers,
            referrer_sources=self.referrer_sources,
        )
        return Archive(output.getvalue(), result)

    def plan(self, *platforms: str, **options: Any) -> SaveResult:
        return plan(
            self.store,
            self.records,
            self._options(*platforms, **options),
            fetchers=self.fetchers,
            referrer_sources=self.referrer_sources,
        )


def digests(result: SaveResult) -> list[str]:
    return [str(item.target.digest) for item in result.referrers]


def listed(archive: Archive) -> dict[str, str]:
    """Return the entries without a name: their digests and subjects."""
    unnamed = [item for item in archive.index if images_name(item) == ""]
    return {item["digest"]: item["annotations"][referrers.SUBJECT] for item in unnamed}


def images_name(item: dict[str, Any]) -> str:
    return str(item.get("annotations", {}).get("io.containerd.image.name", ""))


# --- save -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [artifact, signature])
def test_referrers_of_the_registry_are_fetched_and_saved(make: Callable[..., Graph]) -> None:
    graph = shapes.five_platform()
    on_index, on_host, on_other = make(graph), make(graph.child(0)), make(graph.child(1))
    near = NearSide(graph, on_index, on_host, on_other)
    archive = near.save()
    assert listed(archive) == {on_index.digest: graph.digest, on_host.digest: graph.child(0).digest}
    assert sorted(digests(archive.result)) == sorted(listed(archive))
    assert archive.blobs >= {*on_index.blobs, *on_host.blobs}
    assert not archive.blobs & {on_other.digest}
    assert {str(item.digest) for item in archive.result.fetched} == {*on_index.blobs, *on_host.blobs}
    assert [item["Config"] for item in archive.docker] == [
        f"blobs/sha256/{graph.child(0).document()['config']['digest'][7:]}"
    ]


def test_without_the_option_no_registry_is_asked() -> None:
    graph = shapes.single()
    near = NearSide(graph, shapes.artifact(subject=graph))
    archive = near.save(referrers=False)
    assert archive.result.referrers == ()
    assert near.registry.calls == []
    assert archive.blobs == set(graph.blobs)


def test_what_was_fetched_stays_in_the_store_and_is_saved_offline() -> None:
    graph = shapes.single()
    sbom = shapes.artifact(subject=graph, kind=SBOM)
    near = NearSide(graph, sbom)
    first = near.save()
    # The image was put into the store without the labels that a pull sets.
    children = [graph.document()["config"], *graph.document()["layers"]]
    label = {f"containerd.io/gc.ref.content.{number}": one["digest"] for number, one in enumerate(children)}
    near.store.content.set_labels(Digest(graph.digest), label)
    near.store.collect_garbage()
    near.registry.calls.clear()
    again = near.save(ensure="none")
    assert near.registry.calls == []
    assert again.raw == first.raw
    assert again.result.fetched == ()
    assert [item.target.artifact_type for item in again.result.referrers] == [SBOM]


def test_referrers_of_referrers() -> None:
    graph = shapes.single()
    sbom = shapes.artifact(subject=graph, kind=SBOM)
    signature = shapes.signature(subject=sbom)
    near = NearSide(graph, sbom, signature)
    archive = near.save()
    assert listed(archive) == {sbom.digest: graph.digest, signature.digest: sbom.digest}
    assert digests(archive.result) == [sbom.digest, signature.digest]


def test_an_index_may_refer_and_its_manifests_may_be_referred_to() -> None:
    graph = shapes.single()
    described = {key: graph.root[key] for key in ("mediaType", "digest", "size")}
    part = shapes.artifact(text="part")
    bundle = images.index([part], subject=described, artifactType="application/vnd.example.bundle")
    signature = shapes.signature(subject=part)
    archive = NearSide(graph, bundle, signature).save()
    assert listed(archive) == {bundle.digest: graph.digest, signature.digest: part.digest}
    assert archive.blobs >= set(bundle.blobs)


def test_a_registry_cannot_make_up_referrers_forever() -> None:
    graph = shapes.single()
    chain = [graph]
    for number in range(referrers.MAX_LEVELS + 1):
        chain.append(shapes.artifact(subject=chain[-1], text=str(number)))
    assert len(NearSide(graph, *chain[1:-1]).save().result.referrers) == referrers.MAX_LEVELS
    with pytest.raises(ContentError, match="nested more than 8 levels deep"):
        NearSide(graph, *chain[1:]).save()


def test_manifests_that_refer_to_each_other_end() -> None:
    """Only labels can form a cycle: a digest cannot contain itself."""
    graph = shapes.single()
    one, two = shapes.artifact(text="one"), shapes.artifact(text="two")
    near = NearSide(graph)
    near.store.put({**one.blobs, **two.blobs})
    for subject, referrer in ((graph, one), (one, two), (two, one), (one, graph)):
        near.store.content.set_labels(Digest(subject.digest), referrers.gc_label(Digest(referrer.digest)))
    archive = near.save(ensure="none")
    assert listed(archive) == {one.digest: graph.digest, two.digest: one.digest}


def test_what_the_image_lists_itself_is_not_listed_again() -> None:
    graph = shapes.single()
    described = {key: graph.root[key] for key in ("mediaType", "digest", "size")}
    inside = shapes.signature(subject=graph)
    whole = images.index([graph, inside])
    archive = NearSide(whole, inside).save("all")
    assert listed(archive) == {}
    assert described["digest"] in archive.blobs


def test_names_in_annotations_do_not_make_images_of_referrers() -> None:
    graph = shapes.single()
    names = {
        "io.containerd.image.name": "evil:1",
        "org.opencontainers.image.ref.name": "evil",
        "containerd.io/distribution.source.example.com": "x",
        "org.example.kept": "yes",
    }
    evil = shapes.artifact(subject=graph, annotations=names)
    archive = NearSide(graph, evil).save()
    (item,) = [item for item in archive.index if item["digest"] == evil.digest]
    assert item["annotations"] == {referrers.SUBJECT: graph.digest, "org.example.kept": "yes"}
    assert item["artifactType"] == "application/vnd.example.thing"


def test_a_referrer_is_described_by_itself_and_not_by_the_registry() -> None:
    graph = shapes.single()
    sbom = shapes.artifact(subject=graph, kind=SBOM, annotations={"own": "yes"})
    near = NearSide(graph, sbom)
    listed_as = {"artifactType": "application/wrong", "annotations": {"own": "no"}, "data": "eA=="}
    near.registry.lists[graph.digest] = [target_of({**sbom.root, **listed_as})]
    (found,) = near.save().result.referrers
    assert (found.target.artifact_type, found.target.annotations) == (SBOM, {"own": "yes"})
    assert found.target.data == b""


def test_two_names_of_an_image_have_the_same_referrers_once() -> None:
    graph = shapes.single()
    near = NearSide(graph, shapes.artifact(subject=graph))
    near.records.append(near.store.tag("registry.example/team/app:other", graph.root))
    archive = near.save()
    assert len(archive.index) == 3
    assert len(archive.result.referrers) == 1


def test_a_pruned_index_has_no_referrers_but_its_manifests_have(caplog: pytest.LogCaptureFixture) -> None:
    graph = shapes.five_platform()
    on_index, on_host = shapes.artifact(subject=graph), shapes.artifact(subject=graph.child(0))
    near = NearSide(graph, on_index, on_host)
    assert listed(near.save(index="prune")) == {on_host.digest: graph.child(0).digest}
    assert "1 referrer of the index" in caplog.text
    caplog.clear()
    assert listed(near.save(index="flatten")) == {on_host.digest: graph.child(0).digest}
    assert "1 referrer of the index" in caplog.text
    caplog.clear()
    assert set(listed(near.save("all", index="prune"))) == {on_index.digest, on_host.digest}
    assert caplog.text == ""


def test_a_dry_run_counts_referrers_and_fetches_nothing() -> None:
    graph = shapes.single()
    sbom = shapes.artifact(subject=graph, kind=SBOM)
    signature = shapes.signature(subject=sbom)
    near = NearSide(graph, sbom, signature)
    before = set(near.store.state.blobs)
    planned = near.plan()
    assert set(near.store.state.blobs) == before
    archive = near.save()
    assert planned.referrers == archive.result.referrers
    assert planned.bytes_written == archive.result.bytes_written
    assert set(planned.fetched) == set(archive.result.fetched)
    assert planned.blobs == archive.result.blobs


def test_offline_no_registry_is_asked() -> None:
    graph = shapes.single()
    near = NearSide(graph, shapes.artifact(subject=graph))
    assert near.save(ensure="none").result.referrers == ()
    assert near.plan(ensure="none").referrers == ()
    assert near.registry.calls == []


def test_docker_archives_have_no_referrers() -> None:
    with pytest.raises(InvalidInput, match="referrers"):
        SaveOptions(format="docker", referrers=True)


# --- save: what is missing, or wrong ----------------------------------------------------------------------


def test_a_registry_that_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    graph = shapes.single()
    near = NearSide(graph)
    near.registry.broken.add(graph.digest)
    with pytest.raises(RegistryError, match="is broken") as caught:
        near.save()
    assert "ensure=none" in str(caught.value.hint)
    with caplog.at_level(logging.WARNING):
        assert near.save(on_missing="skip").result.referrers == ()
    assert "left out" in caplog.text


def test_another_registry_that_answers_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    graph = shapes.single()
    sbom = shapes.artifact(subject=graph)
    near = NearSide(graph, sbom)
    down = MemoryRepository("down.example")
    down.broken.add(graph.digest)
    near.sources.insert(0, down)
    with caplog.at_level(logging.WARNING):
        assert digests(near.save().result) == [sbom.digest]
    assert "down.example" in caplog.text
    assert len(down.done("referrers")) == 1


def test_a_listed_referrer_that_the_registry_does_not_have() -> None:
    graph = shapes.single()
    near = NearSide(graph)
    lost = shapes.artifact(subject=graph)
    near.registry.lists[graph.digest] = [target_of(lost.root)]
    with pytest.raises(RegistryError, match="not found"):
        near.save()
    for result in (near.save(on_missing="skip").result, near.plan(on_missing="skip")):
        assert result.referrers == ()
        assert [item.referrer for item in result.skipped] == [lost.digest]


def test_offline_an_incomplete_referrer_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    graph = shapes.single()
    near = NearSide(graph)
    sbom = shapes.artifact(subject=graph)
    near.store.put(sbom.blobs, without=[sbom.document()["layers"][0]["digest"]])
    near.store.content.set_labels(Digest(graph.digest), referrers.gc_label(Digest(sbom.digest)))
    for call in (near.save, near.plan):
        with pytest.raises(IncompleteContent, match="belongs to a referrer") as caught:
            call(ensure="none")
        assert [item.digest for item in caught.value.missing] == [sbom.document()["layers"][0]["digest"]]
    with caplog.at_level(logging.WARNING):
        assert near.save(ensure="none", on_missing="warn").result.skipped[0].referrer == sbom.digest
    assert "is saved without its referrer" in caplog.text


@pytest.mark.parametrize("planned", [False, True])
def test_what_is_listed_with_another_subject_is_left_out(
    caplog: pytest.LogCaptureFixture, planned: bool
) -> None:
    graph = shapes.single()
    other = shapes.artifact(subject=shapes.single("linux/arm64"))
    near = NearSide(graph, other)
    blob = Descriptor(
        media_type="application/vnd.oci.artifact.manifest.v1+json", digest=Digest.of(b"x"), size=1
    )
    near.registry.lists[graph.digest] = [target_of(other.root), blob]
    with caplog.at_level(logging.WARNING):
        assert (near.plan() if planned else near.save().result).referrers == ()
    assert "has another subject" in caplog.text
    assert "is no manifest" in caplog.text
    assert near.store.content.info(Digest(graph.digest)).labels == {}
    assert set(near.registry.done("fetch")) <= {other.digest}  # none of its blobs
    assert len(near.registry.done("fetch")) <= 2


# --- load -------------------------------------------------------------------------------------------------


@PIPE
@pytest.mark.parametrize("make", [shapes.single, shapes.five_platform])
def test_loaded_referrers_survive_a_collection_and_can_be_saved_again(
    make: Callable[..., Graph], pipe: bool
) -> None:
    graph = make()
    sbom = shapes.artifact(subject=graph, kind=SBOM)
    signature = shapes.signature(subject=sbom)
    archive = NearSide(graph, sbom, signature).save()
    far = FarSide()
    planned = far.load(archive.raw, pipe=pipe, dry_run=True)
    result = far.load(archive.raw, pipe=pipe)
    assert (planned.referrers, planned.bytes_written) == (result.referrers, result.bytes_written)
    assert [item.target.digest for item in result.referrers] == [sbom.digest, signature.digest]
    assert far.names == {NAME}
    assert far.here >= {*sbom.blobs, *signature.blobs}
    assert far.labels(graph.digest)[f"referrer.sha256.{sbom.digest[7:19]}"] == sbom.digest
    assert far.labels(sbom.digest)[f"referrer.sha256.{signature.digest[7:19]}"] == signature.digest
    again = io.BytesIO()
    options = SaveOptions(platforms=selected(), referrers=True, ensure="none")
    saved = save(far.store, [far.store.images.get(NAME)], options, again, fetchers=lambda _image: ())
    assert saved.referrers == result.referrers
    assert listed(Archive(again.getvalue(), saved)) == listed(archive)
    # With the image, its referrers go.
    far.store.images.delete(NAME)
    assert far.here == set()


def test_a_second_load_writes_nothing() -> None:
    graph = shapes.single()
    archive = NearSide(graph, shapes.artifact(subject=graph)).save()
    far = FarSide()
    first = far.load(archive.raw)
    again = far.load(archive.raw)
    assert again.bytes_written == 0
    assert again.bytes_present == first.bytes_written
    assert again.referrers == first.referrers


@PIPE
def test_layouts_of_oras_say_the_subject_only_in_the_manifest(pipe: bool) -> None:
    graph = shapes.single()
    sbom = shapes.artifact(subject=graph)
    files = layout(entry(graph, NAME), entry(sbom), blobs={**graph.blobs, **sbom.blobs})
    far = FarSide()
    assert [item.target.digest for item in far.load(tar_of(files), pipe=pipe).referrers] == [sbom.digest]
    assert far.here == {*graph.blobs, *sbom.blobs}


def test_referrers_of_what_is_not_loaded_stay_out() -> None:
    graph, other = shapes.single(), shapes.single("linux/arm64")
    sbom = shapes.artifact(subject=other)
    stray = shapes.artifact(subject=shapes.single("linux/s390x"), text="stray")
    invalid = shapes.artifact(text="invalid")
    entries = [
        entry(graph, NAME),
        entry(other, "registry.example/other:1"),
        entry(sbom, annotations={referrers.SUBJECT: other.digest}),
        entry(stray, annotations={referrers.SUBJECT: f"sha256:{'0' * 64}"}),
        entry(invalid, annotations={referrers.SUBJECT: "nonsense"}),
    ]
    blobs = {**graph.blobs, **other.blobs, **sbom.blobs, **stray.blobs, **invalid.blobs}
    far = FarSide()
    result = far.load(tar_of(layout(*entries, blobs=blobs)), base_name="registry.example/team/app")
    assert result.referrers == ()
    assert far.here == set(graph.blobs)


@PIPE
def test_an_incomplete_referrer_is_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture, pipe: bool
) -> None:
    graph = shapes.single()
    sbom = shapes.artifact(subject=graph)
    text = sbom.document()["layers"][0]["digest"]
    files = layout(entry(graph, NAME), entry(sbom), blobs={**graph.blobs, **sbom.blobs}, without={text})
    far = FarSide()
    with caplog.at_level(logging.WARNING):
        assert far.load(tar_of(files), pipe=pipe).referrers == ()
    assert text in caplog.text
    assert far.here == set(graph.blobs)


@PIPE
def test_a_damaged_referrer_is_a_damaged_archive(pipe: bool) -> None:
    graph = shapes.single()
    sbom = shapes.artifact(subject=graph)
    bad = Blob(b'{"schemaVersion":2,"manifests":[],"layers":[]}', images.OCI_MANIFEST)
    marked = {"annotations": {referrers.SUBJECT: graph.digest}}
    for blobs, item in (
        ({sbom.digest: b"x" * len(sbom.blobs[sbom.digest])}, entry(sbom)),
        ({bad.digest: bad.data}, {**bad.descriptor, **marked}),
    ):
        files = layout(entry(graph, NAME), item, blobs={**graph.blobs, **sbom.blobs, **blobs})
        far = FarSide()
        with pytest.raises(ArchiveError):
            far.load(tar_of(files), pipe=pipe)
        far.check_nothing_is_left()


def test_an_archive_without_referrers_is_loaded_as_before() -> None:
    graph = shapes.single()
    far = FarSide()
    assert far.load(archive_of(graph)).referrers == ()
    assert not any(key.startswith("referrer.") for key in far.labels(graph.digest))
    assert json.loads(graph.blobs[graph.digest]).get("subject") is None
