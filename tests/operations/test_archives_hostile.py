"""Hostile and damaged archives: verify_archive ends in one error, or in findings that say what is wrong."""

from __future__ import annotations

import io
import re
from typing import IO, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyctrd
from pyctrd import VerifyArchiveResult
from pyctrd.archive import decompress
from pyctrd.errors import ArchiveError
from pyctrd.operations.archives import survey
from tests.support import images, shapes
from tests.support.hostile import HOSTILE, docker, files
from tests.support.images import Graph, to_json
from tests.support.tars import COMPRESSORS, Pipe, tar_of

PIPE = pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])

# Archives that can be read to their end, with the fault and the detail of the only finding. All others raise
# the error of a load.
FINDINGS: Final = {
    "wrong-layer": ("corrupt", "unexpected digest"),
    "wrong-manifest": ("corrupt", "unexpected digest"),
    "wrong-config": ("corrupt", "unexpected digest"),
    "other-size": ("truncated", "it has 200000 bytes instead of"),
    "entry-is-a-layer": ("malformed", "neither an index nor a manifest"),
    "duplicate-key": ("malformed", "duplicate key 'layers'"),
    "index-as-manifest": ("malformed", "expected index but found"),
    "huge-manifest": ("malformed", "rejecting .* byte manifest"),
    "other-platform": ("malformed", "the index says linux/amd64, but the config"),
    "wide-index": ("malformed", "10001 entries: more than 10000"),
    "missing-layer": ("missing", "not in the archive"),
    "missing-platform": ("missing", "it is not for linux/amd64: it has linux/s390x"),
    "docker-no-layer": ("missing", "'/etc/passwd' not found in the archive"),
    "docker-wrong-layer": ("corrupt", "unexpected digest"),
}


def stream(data: bytes, *, pipe: bool) -> IO[bytes]:
    return cast("IO[bytes]", Pipe(data, 100_000)) if pipe else io.BytesIO(data)


def verify(data: bytes, *, pipe: bool = False) -> VerifyArchiveResult:
    return pyctrd.verify_archive(stream(data, pipe=pipe), platforms="linux/amd64")


@PIPE
@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_reported(name: str, pipe: bool) -> None:
    data = HOSTILE[name].data()
    if name not in FINDINGS:
        with pytest.raises(ArchiveError, match=HOSTILE[name].message):
            verify(data, pipe=pipe)
        return
    fault, detail = FINDINGS[name]
    (found,) = verify(data, pipe=pipe).findings
    assert found.fault == fault
    assert re.search(detail, found.detail)


@PIPE
@pytest.mark.parametrize("name", HOSTILE)
def test_inspect_raises_the_same_errors(name: str, pipe: bool) -> None:
    data = HOSTILE[name].data()
    if name not in FINDINGS:
        with pytest.raises(ArchiveError, match=HOSTILE[name].message):
            pyctrd.inspect_archive(stream(data, pipe=pipe))
        return
    (image,) = pyctrd.inspect_archive(stream(data, pipe=pipe)).images
    unnoticed = {"missing-platform"} if pipe else {"missing-platform", "wrong-layer", "docker-wrong-layer"}
    assert image.complete == (name in unnoticed)


def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "_ALWAYS_ALLOWED_BYTES", 1 << 20)
    monkeypatch.setattr(decompress, "_MAX_RATIO", 10)
    with pytest.raises(ArchiveError, match="decompression bomb"):
        verify(COMPRESSORS["gzip"](tar_of({"a": bytes(8 << 20), **files()})))
    # A layer of docker's archive is decompressed, too, to compare it with its diff id.
    bomb = {**docker(), "layer.tar": COMPRESSORS["gzip"](bytes(8 << 20))}
    (found,) = verify(tar_of(bomb)).findings
    assert (found.fault, "decompression bomb" in found.detail) == ("corrupt", True)


def test_images_that_list_each_other_s_content_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_MAX_DESCRIPTORS", 1000)
    child = shapes.many_manifests(50)
    entries = []
    blobs = dict(child.blobs)
    for number in range(10):
        made = images.index([child], annotations={"number": str(number)})
        entries.append(made.root)
        blobs |= made.blobs
    listed = Graph(entries[0], blobs)
    archive = {**files(listed), "index.json": to_json({"schemaVersion": 2, "manifests": entries})}
    with pytest.raises(ArchiveError, match="more than 1000 descriptors"):
        verify(tar_of(archive))


def test_many_names_of_an_image_of_which_much_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_MAX_DESCRIPTORS", 1000)
    graph = shapes.single(layers=20)
    named = [{**graph.root, "annotations": {"io.containerd.image.name": f"a:{n}"}} for n in range(100)]
    whole = {**files(graph), "index.json": to_json({"schemaVersion": 2, "manifests": named})}
    assert verify(tar_of(whole)).ok
    lost = {f"blobs/sha256/{item['digest'][7:]}" for item in graph.document()["layers"]}
    with pytest.raises(ArchiveError, match="names of what is damaged"):
        verify(tar_of({name: data for name, data in whole.items() if name not in lost}))


ARCHIVE = tar_of(files(shapes.single()))


@given(st.lists(st.tuples(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255)), max_size=3), st.booleans())
def test_a_changed_archive_is_whole_or_reported(changes: list[tuple[int, int]], pipe: bool) -> None:
    data = bytearray(ARCHIVE)
    for position, value in changes:
        data[position] = value
    try:
        result = verify(bytes(data), pipe=pipe)
    except ArchiveError:
        return
    if result.ok:
        assert {item.digest for item in result.images[0].platforms} == {shapes.single().digest}
        assert result.blobs >= len(shapes.single().blobs)


@given(st.binary(max_size=3000), st.booleans())
def test_any_bytes_are_reported(data: bytes, pipe: bool) -> None:
    with pytest.raises(ArchiveError):
        verify(data, pipe=pipe)
