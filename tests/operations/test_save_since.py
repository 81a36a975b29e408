"""Save without what an older archive has, on a store in memory."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import IO, Any, cast

import pytest

from pyctrd.archive.inventory import Have
from pyctrd.archive.reader import open_archive
from pyctrd.errors import ArchiveError, InvalidInput
from pyctrd.oci.model import Digest
from pyctrd.operations.save.since import have_since, since_list, with_older
from tests.operations.test_save_delta import chain_ids
from tests.support import images, shapes
from tests.support.images import Graph, Layer, to_json
from tests.support.loading import archive_of, docker_archive, entry, layout
from tests.support.saving import Archive, Bench, layers
from tests.support.tars import COMPRESSORS, Pipe, tar_of


def release(version: int, base: int = 2) -> Graph:
    made: list[Layer] = [images.layer({f"base/{number}": b"base" * 5000}) for number in range(base)]
    made.append(images.layer({"app": str(version).encode()}))
    return images.manifest(images.config(made), made)


def have(data: bytes, *, pipe: bool = False) -> Have:
    with open_archive(cast("IO[bytes]", Pipe(data, 1000)) if pipe else io.BytesIO(data)) as archive:
        return have_since(archive)


def digests(*names: str) -> frozenset[Digest]:
    return frozenset(map(Digest, names))


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_the_layers_of_an_older_archive_are_left_out(compression: str, pipe: bool) -> None:
    old, new = release(1), release(2)
    found = have(COMPRESSORS[compression](archive_of(old)), pipe=pipe)
    assert found == Have(blobs=digests(*layers(old)))
    archive = Bench(new).save(have=found)
    assert archive.blobs == set(new.blobs) - set(layers(old))
    assert {item.digest for item in archive.result.presumed} == set(layers(new)[:2])


def test_a_folder_and_an_archive_in_its_place(tmp_path: Path) -> None:
    old = release(1)
    files = layout(entry(old, "a:1"), blobs=old.blobs)
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert with_older(None, [tmp_path], lambda: None) == have(tar_of(files))


def test_every_platform_and_every_image_counts() -> None:
    five, one = shapes.five_platform(), release(1)
    data = tar_of(layout(entry(five, "a:1"), entry(one, "b:1"), blobs={**five.blobs, **one.blobs}))
    wanted = {digest for number in range(5) for digest in layers(five.child(number))} | set(layers(one))
    assert have(data).blobs == digests(*wanted)


def test_what_the_archive_lacks_or_no_image_has_does_not_count() -> None:
    five = shapes.five_platform()
    lost = {layers(five.child(0))[0], five.child(1).digest}
    other = images.layer({"other": b"other"})
    data = tar_of(
        layout(entry(five, "a:1"), blobs={**five.blobs, other.digest: other.data}, without=lost),
    )
    found = have(data).blobs
    assert other.digest not in found
    assert not found & (lost | set(layers(five.child(1))) - set(layers(five.child(2))))
    assert digests(*layers(five.child(2))) <= found


def test_what_a_delta_presumes_counts() -> None:
    old, new, newest = release(1), release(2), release(3)
    delta = Bench(new).save(have=have(archive_of(old)))
    found = have(delta.raw)
    assert found.blobs == digests(*layers(new))
    assert Bench(newest).save(have=found).blobs == set(newest.blobs) - set(layers(new))


def test_dockers_archives_count_by_the_chain_ids_of_their_layers() -> None:
    old, new = release(1), release(2)
    found = have(docker_archive(old, "a:1"))
    assert found == Have(chain_ids=frozenset(chain_ids(old)))
    archive = Bench(new).save(have=found)
    assert archive.blobs == set(new.blobs) - set(layers(new)[:2])


def test_uncompressed_layers_of_a_layout_count_by_their_chain_ids_as_well() -> None:
    """That is what `docker save` of Docker 25 and later writes, unless it uses containerd's store."""
    new = release(2)
    plain = uncompressed(release(1))
    found = have(archive_of(plain))
    assert found == Have(blobs=digests(*layers(plain)), chain_ids=frozenset(chain_ids(plain)))
    archive = Bench(new).save(have=found)
    assert archive.blobs == set(new.blobs) - set(layers(new)[:2])
    # A snapshot needs the layers below it.
    partial = have(archive_of(plain, without={layers(plain)[1]}))
    assert partial.chain_ids == frozenset(chain_ids(plain)[:1])


def uncompressed(graph: Graph) -> Graph:
    import gzip

    document = json.loads(graph.blobs[graph.digest])
    blobs = {}
    for item in document["layers"]:
        data = gzip.decompress(graph.blobs[item["digest"]])
        item.update(
            digest=Digest.of(data), size=len(data), mediaType="application/vnd.oci.image.layer.v1.tar"
        )
        blobs[item["digest"]] = data
    config = document["config"]["digest"]
    raw = to_json(document)
    root = {**graph.root, "digest": Digest.of(raw), "size": len(raw)}
    return Graph(root, {**blobs, config: graph.blobs[config], root["digest"]: raw})


# --- how it is read ---------------------------------------------------------------------------------------


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def test_layers_of_a_file_are_not_read() -> None:
    big = images.layer({"big": bytes(range(256)) * 40_000}, compression="")
    graph = images.manifest(images.config([big]), [big])
    stream = Counting(archive_of(graph))
    with open_archive(stream) as archive:
        assert have_since(archive).blobs == digests(big.digest)
    assert stream.count < 20_000 < len(big.data)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _wrong_manifest(_data: bytes) -> bytes:
    graph = release(1)
    blobs = {**graph.blobs, graph.digest: graph.blobs[graph.digest].replace(b"layers", b"Layers")}
    return tar_of(layout(entry(graph, "a:1"), blobs=blobs))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "old.tar: unexpected EOF: the archive ends after"),
        (lambda _data: b"", "old.tar: the archive is empty"),
        (lambda _data: b"no archive", "old.tar: archive/tar: invalid tar header"),
        (lambda _data: tar_of({"a": b"b"}), "old.tar: unrecognized image format"),
        (lambda _data: tar_of({"oci-layout": b"{}"}), "old.tar: unsupported OCI version"),
        (_wrong_manifest, "old.tar: wrong content for blobs/sha256/"),
        (
            lambda _data: tar_of({"manifest.json": b'[{"Config":"c","Layers":[]}]'}),
            "old.tar: 'c' not found in the archive",
        ),
        (
            lambda _data: tar_of({"manifest.json": b'[{"Config":"c","Layers":[]}]', "c": b"[]"}),
            "old.tar: ",
        ),
    ],
)
def test_a_damaged_older_archive_is_a_clear_error(tmp_path: Path, damage: Any, words: str) -> None:
    path = tmp_path / "old.tar"
    path.write_bytes(damage(archive_of(release(1))))
    with pytest.raises(ArchiveError) as caught:
        with_older(Have(), [path], lambda: None)
    assert words in caught.value.message
    assert caught.value.message.count("old.tar") == 1


def test_several_older_archives_and_an_inventory_are_united(tmp_path: Path) -> None:
    first, second = shapes.single(), release(1)
    for name, graph in (("1.tar", first), ("2.tar", second)):
        (tmp_path / name).write_bytes(archive_of(graph))
    given = Have(blobs=digests(first.digest), chain_ids=digests(second.digest))
    found = with_older(given, [tmp_path / "1.tar", tmp_path / "2.tar"], lambda: None)
    assert found == Have(
        blobs=digests(first.digest, *layers(first), *layers(second)), chain_ids=digests(second.digest)
    )


def test_stdin_is_read_once() -> None:
    assert since_list("old.tar", None, None) == ["old.tar"]
    assert since_list(("-", "old.tar"), "have.json", None) == ("-", "old.tar")
    for since, others in (("-", ("-", None)), (["-", "-"], ()), ((), ("-", "-"))):
        with pytest.raises(InvalidInput, match="stdin can be read once"):
            since_list(cast("Any", since), *others)


def test_the_statement_of_an_archive_since_nothing_useful_is_empty() -> None:
    archive: Archive = Bench(release(1)).save(have=have(archive_of(shapes.artifact())))
    assert json.loads(archive.files["pyctrd.json"])["presumed"] == []
