"""Save and ensure with missing content from an archive, on a store in memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import pytest

from pyctrd.errors import ArchiveError, InvalidInput, RegistryError, RegistryNotFound
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor
from pyctrd.oci.platforms import to_string
from pyctrd.operations.archive_source import fetchers_with, open_source
from pyctrd.operations.ensure import ensure
from pyctrd.operations.save import EnsureMode, SaveOptions, SaveResult, plan, save
from pyctrd.steps.fetch import from_first
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.loading import archive_of, docker_archive
from tests.support.saving import Archive, Bench, layers
from tests.support.selections import selected
from tests.support.tars import COMPRESSORS, Pipe

SOURCE_LABEL = "containerd.io/distribution.source."


class FromArchive(Bench):
    """A bench whose saves take missing content from an archive."""

    def __init__(self, graph: Graph, data: bytes, **how: Any) -> None:
        super().__init__(graph, **how)
        self.data = data

    def _call(self, function: Callable[..., SaveResult], *rest: Any, offline: bool, **options: Any) -> Any:
        mode: EnsureMode = "none" if offline else "target"
        chosen = SaveOptions(platforms=selected(*options.pop("platforms", ())), ensure=mode, **options)
        with open_source(io.BytesIO(self.data), self.store) as source:
            fetchers = fetchers_with(source, self.fetchers, offline=offline)
            return function(self.store, [self.record], chosen, *rest, fetchers=fetchers, source=source)

    def plan_from(self, *, offline: bool = True, **options: Any) -> SaveResult:
        return cast("SaveResult", self._call(plan, offline=offline, **options))

    def save_from(self, *, offline: bool = True, **options: Any) -> Archive:
        output = io.BytesIO()
        result = self._call(save, output, offline=offline, **options)
        return Archive(output.getvalue(), result)

    @property
    def kept(self) -> set[str]:
        self.store.collect_garbage()
        return set(self.state.blobs)


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("lost", ["layers", "config", "manifest", "all"])
def test_missing_content_is_taken_from_the_archive(lost: str, offline: bool) -> None:
    graph = shapes.single(layers=3)
    config = graph.document()["config"]["digest"]
    without = {
        "layers": layers(graph),
        "config": [config],
        "manifest": [graph.digest],
        "all": list(graph.blobs),
    }[lost]
    bench = FromArchive(graph, archive_of(graph), without=without)
    planned = bench.plan_from(offline=offline)
    assert {item.digest for item in planned.fetched} == set(without)
    archive = bench.save_from(offline=offline)
    assert archive.blobs == set(graph.blobs)
    assert {item.digest for item in archive.result.fetched} == set(without)
    assert planned.bytes_written == archive.result.bytes_written
    assert bench.remote.calls == []
    assert bench.kept == set(graph.blobs)
    infos = bench.store.content.list()
    assert not any(key.startswith(SOURCE_LABEL) for info in infos for key in info.labels)


def test_a_lost_index_and_all_platforms() -> None:
    graph = shapes.five_platform()
    bench = FromArchive(graph, archive_of(graph), without=list(graph.blobs))
    archive = bench.save_from(platforms=("all",))
    assert archive.blobs == set(graph.blobs) == bench.kept


def test_what_neither_has_is_named() -> None:
    graph = shapes.single(layers=3)
    first, second, third = layers(graph)
    data = archive_of(graph, without={first, third})
    bench = FromArchive(graph, data, without=[first, second, third])
    for call in (bench.plan_from, bench.save_from):
        with pytest.raises(IncompleteContent) as caught:
            call()
        assert {item.digest for item in caught.value.missing} == {first, third}
    assert second in bench.kept
    assert bench.remote.calls == []


def test_what_is_missing_is_skipped_by_platform() -> None:
    graph = shapes.five_platform()
    amd64, other = graph.child(0), graph.child(1)
    absent = [*layers(amd64), *layers(other)]
    data = archive_of(graph, without=set(layers(other)))
    bench = FromArchive(graph, data, without=absent)
    archive = bench.save_from(platforms=("all",), on_missing="skip")
    assert set(layers(amd64)) <= archive.blobs
    assert other.digest not in archive.blobs
    assert to_string(amd64_of(archive)) == "linux/amd64"


def amd64_of(archive: Archive) -> Any:
    return next(item for item in archive.result.platforms if item.architecture == "amd64")


def test_the_registry_is_asked_for_what_the_archive_lacks() -> None:
    graph = shapes.single(layers=3)
    first, second, third = layers(graph)
    bench = FromArchive(graph, archive_of(graph, without={second}), without=[first, second, third])
    archive = bench.save_from(offline=False)
    assert archive.blobs == set(graph.blobs)
    assert {name for _what, name in bench.remote.calls} == {second}


def test_layers_of_dockers_archive() -> None:
    layer = images.layer({"a": b"a" * 1000}, compression="")
    graph = images.manifest(images.config([layer]), [layer])
    bench = FromArchive(graph, docker_archive(graph, "a:1"), without=[layer.digest])
    assert bench.save_from().blobs == set(graph.blobs)


@pytest.mark.parametrize(("kind", "offline"), [("layer", True), ("layer", False), ("config", True)])
def test_wrong_content_is_refused(kind: str, offline: bool) -> None:
    graph = shapes.single(layers=2)
    config = graph.document()["config"]["digest"]
    digest = layers(graph)[0] if kind == "layer" else config
    data = graph.blobs[digest]
    raw = archive_of(graph).replace(data, data[:-1] + bytes([data[-1] ^ 1]))
    bench = FromArchive(graph, raw, without=[digest])
    with pytest.raises(ArchiveError, match="wrong content") as caught:
        bench.save_from(offline=offline)
    assert digest in caught.value.message
    assert "registry" not in f"{caught.value.message} {caught.value.hint}"
    assert digest not in bench.state.blobs
    assert not any(unfinished.data for unfinished in bench.state.ingests.values())


def test_a_wrong_document_is_fetched_from_the_registry_instead() -> None:
    graph = shapes.single(layers=2)
    config = graph.document()["config"]["digest"]
    data = graph.blobs[config]
    raw = archive_of(graph).replace(data, data[:-1] + b" ")
    bench = FromArchive(graph, raw, without=[config])
    assert bench.save_from(offline=False).blobs == set(graph.blobs)
    assert {name for _what, name in bench.remote.calls} == {config}


def test_a_blob_of_another_size_is_refused() -> None:
    graph = shapes.single(layers=2)
    digest = layers(graph)[0]
    blobs = {**graph.blobs, digest: b"short"}
    bench = FromArchive(graph, archive_of(Graph(graph.root, blobs)), without=[digest])
    with pytest.raises(ArchiveError, match="in the archive has 5 bytes"):
        bench.save_from()


def test_ensure_takes_content_from_an_archive_first() -> None:
    graph = shapes.single(layers=2)
    bench = FromArchive(graph, archive_of(graph), without=layers(graph))
    targets = selected().resolve(lambda: ())
    with open_source(io.BytesIO(bench.data), bench.store) as source:
        result = ensure(bench.store, bench.record, targets, fetchers_with(source, bench.fetchers))
    assert {item.digest for item in result.fetched} == set(layers(graph))
    assert bench.remote.calls == []
    assert bench.kept == set(graph.blobs)


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_only_what_can_be_read_in_any_order_is_a_source(tmp_path: Path, compression: str) -> None:
    bench = Bench(shapes.single())
    data = COMPRESSORS[compression](archive_of(bench.graph))
    path = tmp_path / "the old.tar.x"
    path.write_bytes(data)
    if not compression:
        with open_source(path, bench.store) as source:
            assert source is not None
            assert source.has(
                Descriptor(media_type="", digest=layers_first(bench.graph), size=size(bench.graph))
            )
    else:
        with pytest.raises(InvalidInput, match="it is compressed") as caught, open_source(path, bench.store):
            pass
        hint = f"{compression} -dc '{path}' > '{tmp_path}/the old.tar'"
        assert (caught.value.hint or "").endswith(hint)
    pipe = cast("IO[bytes]", Pipe(data, 1000))
    with pytest.raises(InvalidInput, match="it is a pipe"), open_source(pipe, bench.store):
        pass


def layers_first(graph: Graph) -> Any:
    return graph.document()["layers"][0]["digest"]


def size(graph: Graph) -> int:
    return int(graph.document()["layers"][0]["size"])


def test_no_source_changes_nothing_and_one_that_is_no_archive_is_named(tmp_path: Path) -> None:
    bench = Bench(shapes.single())
    with open_source(None, bench.store) as source:
        assert fetchers_with(source, bench.fetchers) == bench.fetchers
    (tmp_path / "old.tar").write_bytes(archive_of(bench.graph)[:5000])
    with pytest.raises(ArchiveError, match=r"^old.tar: "), open_source(tmp_path / "old.tar", bench.store):
        pass


def test_the_error_of_the_registry_counts_more_than_that_of_the_archive() -> None:
    """It may have the content, but not answer; `--on-missing skip` must not leave it out then."""
    graph = shapes.single()
    bench = Bench(graph)
    (first, *_rest) = layers(graph)
    bench.remote.broken.add(first)
    absent = Descriptor(media_type="", digest=layers_first(graph), size=size(graph))
    with open_source(io.BytesIO(archive_of(graph, without={first})), bench.store) as source:
        fetchers = fetchers_with(source, bench.fetchers)(bench.record)

        def fetch(fetcher: Any) -> bytes:
            with fetcher.fetch(absent) as chunks:
                return b"".join(chunks)

        with pytest.raises(RegistryError, match="is broken"):
            from_first(fetchers, absent, fetch)
        with pytest.raises(RegistryNotFound, match=r"not found in the stream"):
            from_first(fetchers[:1], absent, fetch)
