"""verify_archive and inspect_archive, in memory: what is complete, what is damaged, and what is presumed."""

from __future__ import annotations

import gzip
import io
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import pytest

import pyctrd
from pyctrd import ArchivedImage, Finding, Inventory, StoredBlob, VerifyArchiveResult
from pyctrd.errors import ArchiveError, Cancelled, InvalidPlatform
from pyctrd.oci.model import Digest, ImageConfig
from pyctrd.oci.platforms import format_all
from pyctrd.progress import Progress
from tests.support import images, shapes
from tests.support.images import Graph, reachable, to_json
from tests.support.loading import NAME, archive_of, docker_archive, entry, layout, manifest_of
from tests.support.tars import COMPRESSORS, Pipe, member, tar, tar_of

PIPE = pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
FIVE = ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/ppc64le", "linux/s390x")


def stream(data: bytes, *, pipe: bool = False) -> IO[bytes]:
    return cast("IO[bytes]", Pipe(data, 100_000)) if pipe else io.BytesIO(data)


def verify(data: bytes, *, pipe: bool = False, **how: Any) -> VerifyArchiveResult:
    return pyctrd.verify_archive(stream(data, pipe=pipe), **how)


def states(image: ArchivedImage) -> dict[str, str]:
    return {format_all(item.platform) if item.platform else "": item.state for item in image.platforms}


def only(result: VerifyArchiveResult) -> Finding:
    (found,) = result.findings
    assert not result.ok
    return found


def layers(graph: Graph) -> list[str]:
    return [item["digest"] for item in graph.document()["layers"]]


def blob(digest: str) -> str:
    return f"blobs/sha256/{digest[7:]}"


# --- undamaged --------------------------------------------------------------------------------------------


@PIPE
@pytest.mark.parametrize("compression", COMPRESSORS)
def test_a_complete_archive(compression: str, pipe: bool) -> None:
    graph = shapes.mixed()
    data = COMPRESSORS[compression](archive_of(graph))
    result = verify(data, pipe=pipe)
    assert result.ok
    blobs = reachable(graph)
    assert (result.blobs, result.bytes_hashed) == (len(blobs), sum(map(len, blobs.values())))
    (image,) = result.images
    assert (image.name, image.target.digest, image.complete, image.attestations) == (
        *(NAME, graph.digest, True, 1),
    )
    assert set(states(image).values()) == {"complete"}
    assert list(map(format_all, result.platforms)) == list(states(image))
    info = pyctrd.inspect_archive(stream(data, pipe=pipe))
    assert (info.layout, info.folder, info.compression) == ("oci", False, compression)
    assert info.images == result.images
    assert {item.digest for item in info.blobs} == set(blobs)
    assert "" not in {item.media_type for item in info.blobs}


@pytest.mark.parametrize(
    "shape",
    [
        *(shapes.single, shapes.nested, shapes.without_platforms, shapes.artifact, shapes.wasm),
        *(shapes.octet_stream_config, shapes.shared_layers, shapes.compressions, shapes.attested_as_amd64),
        *(shapes.signature, lambda: shapes.large_config(5 << 20), lambda: shapes.many_manifests(30)),
    ],
)
@PIPE
def test_every_shape_of_image_is_complete(shape: Callable[[], Graph], pipe: bool) -> None:
    result = verify(archive_of(shape()), pipe=pipe)
    assert result.findings == ()
    assert result.images[0].complete


def test_the_folder_of_a_layout(tmp_path: Path) -> None:
    graph = shapes.single()
    for name, data in layout(entry(graph, tag="v1"), blobs=graph.blobs).items():
        path = tmp_path / "layout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    result = pyctrd.verify_archive(tmp_path / "layout")
    assert result.ok
    assert result.images[0].name == "v1"
    info = pyctrd.inspect_archive(tmp_path / "layout")
    assert (info.name, info.folder, info.compression) == ("layout", True, "")
    (tmp_path / "layout" / blob(layers(graph)[0])).write_bytes(b"other")
    assert only(pyctrd.verify_archive(tmp_path / "layout")).fault == "truncated"


@PIPE
def test_dockers_archive(pipe: bool) -> None:
    for compression in ("", "gzip", "zstd"):
        graph = shapes.recompressed(compression)
        data = docker_archive(graph, "app:v1", "app:v2")
        result = verify(data, pipe=pipe)
        assert result.findings == ()
        assert [image.name for image in result.images] == [f"docker.io/library/app:v{n}" for n in (1, 2)]
        assert list(map(format_all, result.platforms)) == ["linux/amd64"]
        info = pyctrd.inspect_archive(stream(data, pipe=pipe))
        assert (info.layout, info.images) == ("docker", result.images)
        assert {item.digest for item in info.blobs} == {graph.document()["config"]["digest"], *layers(graph)}


def test_an_archive_without_names_and_what_accompanies_images() -> None:
    graph, artifact = shapes.single(), shapes.artifact(subject=shapes.single())
    listed = [entry(graph), entry(artifact, artifactType="text/plain")]
    data = tar_of(layout(*listed, blobs={**graph.blobs, **artifact.blobs}))
    info = pyctrd.inspect_archive(stream(data))
    assert [(image.name, image.target.digest) for image in info.images] == [("", graph.digest)]
    assert [item.digest for item in info.others] == [artifact.digest]
    assert verify(data).ok
    lost = layers(artifact)[0]
    found = only(verify(tar_of(layout(*listed, blobs={**graph.blobs, **artifact.blobs}, without={lost}))))
    assert (found.digest, found.fault, found.images) == (lost, "missing", ())


def test_next_to_names_an_entry_without_one_is_no_image() -> None:
    """As in a load; oras lists the referrers of an image so."""
    graph, other = shapes.single(), shapes.artifact()
    data = tar_of(layout(entry(graph, tag="v1"), entry(other), blobs={**graph.blobs, **other.blobs}))
    result = verify(data)
    assert [(image.name, image.target.digest) for image in result.images] == [("v1", graph.digest)]
    assert list(map(format_all, result.platforms)) == ["linux/amd64"]
    assert [item.digest for item in pyctrd.inspect_archive(stream(data)).others] == [other.digest]


def test_one_image_with_two_names_is_one_target() -> None:
    graph = shapes.single()
    lost = layers(graph)[1]
    data = tar_of(layout(entry(graph, "a:1"), entry(graph, "b:1"), blobs=graph.blobs, without={lost}))
    result = verify(data)
    assert [image.name for image in result.images] == ["a:1", "b:1"]
    assert only(result).images == ("a:1", "b:1")


# --- damaged ----------------------------------------------------------------------------------------------


@PIPE
@pytest.mark.parametrize("part", ["index", "manifest", "config", "layer"])
@pytest.mark.parametrize("fault", ["corrupt", "truncated", "missing"])
def test_damage_is_found_with_the_names_of_the_images(part: str, fault: str, pipe: bool) -> None:
    graph = shapes.five_platform(docker=False)
    child = graph.child(0)
    digest = {
        "index": graph.digest,
        "manifest": child.digest,
        "config": child.document()["config"]["digest"],
        "layer": layers(child)[0],
    }[part]
    files = layout(entry(graph, NAME), blobs=graph.blobs)
    data = files.pop(blob(digest))
    if fault != "missing":
        files[blob(digest)] = data[:-1] + b"?" if fault == "corrupt" else data[:-1]
    # A manifest that is missing is that of a platform that was not saved.
    chosen = {"platforms": "all"} if (part, fault) == ("manifest", "missing") else {}
    result = verify(tar_of(files), pipe=pipe, **chosen)
    found = only(result)
    assert (found.digest, found.fault, found.images, found.size) == (digest, fault, (NAME,), len(data))
    assert (found.repaired, found.media_type != "") == (False, True)
    (image,) = result.images
    assert not image.complete or chosen
    if part != "index":
        state = "absent" if chosen else "incomplete"
        assert states(image) == {**dict.fromkeys(FIVE, "complete"), "linux/amd64": state}
        assert list(map(format_all, result.platforms)) == list(FIVE[1:])


def test_every_problem_is_reported() -> None:
    first, second = shapes.five_platform(docker=False), shapes.single(salt="second")
    files = layout(entry(first, "a:1"), entry(second, "b:1"), blobs={**first.blobs, **second.blobs})
    wrong, short, gone = layers(first.child(0))[0], layers(first.child(1))[0], layers(second)[0]
    files[blob(wrong)] = bytes(len(files[blob(wrong)]))
    files[blob(short)] = files[blob(short)][:10]
    del files[blob(gone)]
    files[blob(f"sha256:{'0' * 64}")] = b"of no image"
    result = verify(tar_of(files))
    assert {item.digest: (item.fault, item.images) for item in result.findings} == {
        wrong: ("corrupt", ("a:1",)),
        short: ("truncated", ("a:1",)),
        gone: ("missing", ("b:1",)),
        f"sha256:{'0' * 64}": ("corrupt", ()),
    }
    assert [item.digest for item in result.findings] == sorted(item.digest for item in result.findings)
    assert [image.complete for image in result.images] == [False, False]
    # Without hashing, the size of a layer has to do.
    info = pyctrd.inspect_archive(stream(tar_of(files)))
    assert states(info.images[0])["linux/amd64"] == "complete"
    assert states(info.images[0])["linux/arm64"] == "incomplete"


def test_a_size_that_only_the_image_states() -> None:
    plain = shapes.single()
    document = plain.document()
    document["layers"][0]["size"] += 1
    made = images.Blob(to_json(document), images.OCI_MANIFEST)
    graph = Graph(made.descriptor, {**plain.blobs, made.digest: made.data})
    found = only(verify(tar_of(layout(entry(graph, NAME), blobs=reachable(graph)))))
    assert (found.digest, found.fault) == (layers(plain)[0], "malformed")
    assert "according to the image" in found.detail


@PIPE
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_damage_in_dockers_archive(compression: str, pipe: bool) -> None:
    """There only the config states digests: those of the uncompressed layers."""
    graph, other = shapes.recompressed(compression), shapes.recompressed(compression, salt="other")
    files = {"config.json": graph.blobs[graph.document()["config"]["digest"]]}
    files |= {f"{n}.tar": graph.blobs[one] for n, one in enumerate(layers(graph))}
    listed = [{"Config": "config.json", "RepoTags": ["app:v1"], "Layers": ["0.tar", "1.tar"]}]
    files["manifest.json"] = to_json(listed)
    changed = {**files, "1.tar": other.blobs[layers(other)[1]]}
    found = only(verify(tar_of(changed), pipe=pipe))
    assert (found.fault, found.images) == ("corrupt", ("docker.io/library/app:v1",))
    if compression:
        cut = {**files, "1.tar": files["1.tar"][:-20]}
        found = only(verify(tar_of(cut), pipe=pipe))
        assert (found.fault, "1.tar: unexpected EOF" in found.detail) == ("corrupt", True)
    gone = {name: data for name, data in files.items() if name != "1.tar"}
    found = only(verify(tar_of(gone), pipe=pipe))
    assert (found.fault, found.detail) == ("missing", "'1.tar' not found in the archive")


def test_an_archive_without_its_end_is_said_to_be_truncated_if_something_is_missing() -> None:
    graph = shapes.single()
    whole = layout(entry(graph, NAME), blobs=graph.blobs)
    members = [member(name, data) for name, data in sorted(whole.items(), key=lambda item: item[0][0] == "b")]
    assert verify(tar(*members, end=b"")).ok
    found = only(verify(tar(*members[:-1], end=b"")))
    assert found.detail == "not in the archive, which lacks its end and may be truncated"
    with pytest.raises(ArchiveError, match="unexpected EOF"):
        verify(tar(*members)[:-2000])


# --- platforms --------------------------------------------------------------------------------------------


def kept(graph: Graph, *positions: int, without: str = "") -> bytes:
    """An archive with some manifests of an index that lists more."""
    inside = {graph.digest, *(digest for number in positions for digest in manifest_of(graph, number))}
    return archive_of(graph, without=set(graph.blobs) - inside | {without})


def test_an_index_may_list_platforms_that_are_not_in_the_archive() -> None:
    graph = shapes.five_platform()
    result = verify(kept(graph, 1, 2))
    assert result.ok
    (image,) = result.images
    assert image.complete
    assert list(map(format_all, image.having("complete"))) == ["linux/arm64", "linux/arm/v7"]
    assert list(map(format_all, image.having("absent"))) == ["linux/amd64", "linux/ppc64le", "linux/s390x"]


@pytest.mark.parametrize(
    ("platforms", "missing"),
    [
        (None, []),
        ("linux/arm64", []),
        ("linux/arm64,linux/arm/v7", []),
        ("linux/amd64", [0]),
        ("linux/amd64,linux/arm64", [0]),
        ("all", [0, 3, 4]),
    ],
)
def test_selected_platforms_have_to_be_complete(platforms: str | None, missing: list[int]) -> None:
    graph = shapes.five_platform()
    result = verify(kept(graph, 1, 2), platforms=platforms)
    assert {item.digest for item in result.findings} == {graph.child(number).digest for number in missing}
    assert {item.fault for item in result.findings} <= {"missing"}


def test_a_platform_that_the_image_does_not_list() -> None:
    one, other = shapes.single("linux/arm64"), shapes.multi(["linux/amd64", "linux/s390x"], salt="other")
    data = tar_of(layout(entry(one, "a:1"), entry(other, "b:1"), blobs={**one.blobs, **other.blobs}))
    result = verify(data, platforms="linux/amd64")
    found = only(result)
    assert (found.digest, found.images) == (one.digest, ("a:1",))
    assert found.detail == "it is not for linux/amd64: it has linux/arm64"
    assert result.platforms == ()
    assert verify(data).ok


def test_one_name_may_have_an_entry_for_each_platform() -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"])
    listed = [entry(graph.child(number), NAME) for number in range(2)]
    data = tar_of(layout(*listed, blobs=graph.blobs))
    for chosen in ("linux/amd64", "linux/arm64", "linux/amd64,linux/arm64", "all", None):
        assert verify(data, platforms=chosen).ok, chosen
    assert only(verify(data, platforms="linux/s390x")).images == (NAME,)


def test_missing_content_of_other_platforms_is_no_problem_but_damage_is() -> None:
    graph = shapes.five_platform()
    lost = layers(graph.child(1))[0]
    data = kept(graph, 0, 1, without=lost)
    assert verify(data, platforms="linux/amd64").ok
    assert only(verify(data)).digest == lost
    files = layout(entry(graph, NAME), blobs=graph.blobs)
    files[blob(lost)] = bytes(len(files[blob(lost)]))
    assert only(verify(tar_of(files), platforms="linux/amd64")).fault == "corrupt"


def test_an_image_of_which_nothing_is_there() -> None:
    graph = shapes.five_platform()
    found = only(verify(kept(graph)))
    assert (found.digest, found.fault) == (graph.digest, "missing")
    assert found.detail == "none of its platforms is in the archive"
    assert only(verify(archive_of(shapes.single(), without={shapes.single().digest}))).fault == "missing"


def test_there_is_no_store_for_local() -> None:
    with pytest.raises(InvalidPlatform, match="`local` cannot be used here"):
        verify(archive_of(shapes.single()), platforms="local")


# --- delta archives ---------------------------------------------------------------------------------------


def delta(graph: Graph, *, state: bool = True) -> bytes:
    """An archive without the first layer of an image, which it states."""
    first = graph.document()["layers"][0]
    files = layout(entry(graph, NAME), blobs=graph.blobs, without={first["digest"]})
    stated = {"schema": 1, "presumed": [{key: first[key] for key in ("mediaType", "digest", "size")}]}
    return tar_of({**({"pyctrd.json": to_json(stated)} if state else {}), **files})


def chains(graph: Graph) -> tuple[Digest, ...]:
    raw = graph.blobs[graph.document()["config"]["digest"]]
    return ImageConfig.parse(raw).rootfs.chain_ids


def inventory(*blobs: str, snapshots: tuple[Digest, ...] = ()) -> Inventory:
    return Inventory(
        namespace="k8s.io",
        blobs=tuple(StoredBlob(digest=Digest(one), size=1) for one in blobs),
        snapshots={"overlayfs": snapshots},
        default_snapshotter="overlayfs",
    )


@PIPE
def test_presumed_layers_are_listed_and_no_problem(pipe: bool) -> None:
    graph = shapes.single()
    first = graph.document()["layers"][0]
    result = verify(delta(graph), pipe=pipe)
    assert result.ok
    assert [(item.digest, item.size) for item in result.presumed] == [(first["digest"], first["size"])]
    (image,) = result.images
    assert (image.complete, states(image)) == (False, {"linux/amd64": "presumed"})
    assert [item.digest for item in image.platforms[0].missing] == [first["digest"]]
    info = pyctrd.inspect_archive(stream(delta(graph), pipe=pipe))
    assert (info.images, info.presumed) == (result.images, result.presumed)


def test_with_the_inventory_of_the_target() -> None:
    graph = shapes.single()
    first = layers(graph)[0]
    for have in (inventory(first), inventory(snapshots=chains(graph)[:1])):
        result = verify(delta(graph), have=have)
        assert result.ok
        assert result.images[0].complete
        assert [item.digest for item in result.presumed] == [first]
        assert verify(delta(graph), have=io.BytesIO(have.to_json())) == result
    for have in (inventory(), inventory(layers(graph)[1], snapshots=chains(graph)[1:])):
        result = verify(delta(graph), have=have)
        found = only(result)
        assert (found.digest, found.fault, found.images) == (first, "missing", (NAME,))
        assert "but the inventory lacks it" in found.detail
        assert states(result.images[0]) == {"linux/amd64": "incomplete"}


def test_what_no_statement_names_is_missing_unless_the_target_has_the_blob() -> None:
    """As in a load, which only accepts snapshots for layers that the archive leaves out on purpose."""
    graph = shapes.single()
    data = delta(graph, state=False)
    assert not verify(data).ok
    assert verify(data, have=inventory(layers(graph)[0])).ok
    found = only(verify(data, have=inventory(snapshots=chains(graph))))
    assert found.detail == "not in the archive or the inventory"


def test_a_statement_cannot_excuse_a_missing_config() -> None:
    graph = shapes.single()
    config = graph.document()["config"]
    stated = {"schema": 1, "presumed": [{key: config[key] for key in ("mediaType", "digest", "size")}]}
    files = layout(entry(graph, NAME), blobs=graph.blobs, without={config["digest"]})
    found = only(verify(tar_of({"pyctrd.json": to_json(stated), **files})))
    assert (found.digest, found.fault) == (config["digest"], "missing")


def test_a_statement_that_is_none() -> None:
    for statement in (b"[]", b'{"schema":2}', b'{"schema":1,"presumed":[{"digest":"md5:1","size":1}]}'):
        files = layout(entry(shapes.single(), NAME), blobs=shapes.single().blobs)
        with pytest.raises(ArchiveError, match=r"pyctrd\.json of the archive"):
            verify(tar_of({"pyctrd.json": statement, **files}))


# --- the call ---------------------------------------------------------------------------------------------


def test_progress_and_cancellation() -> None:
    graph = shapes.big(4 << 20, layers=2)
    events: list[Progress] = []
    verify(archive_of(graph), progress=events.append)
    assert events[-1].action == "done"
    last = {event.descriptor.digest: event for event in events if event.descriptor}
    assert set(last) == set(layers(graph))
    assert all(event.offset == event.total for event in last.values())
    events.clear()
    verify(docker_archive(graph, "app:v1"), progress=events.append)
    assert {event.detail for event in events[:-1]} == {"layer 0.tar", "layer 1.tar"}
    for call in (
        verify,
        lambda data, **how: pyctrd.inspect_archive(stream(data, pipe=True), cancel=how["cancel"]),
    ):
        cancel = threading.Event()
        cancel.set()
        with pytest.raises(Cancelled):
            call(archive_of(graph), cancel=cancel)
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        verify(archive_of(graph), progress=lambda _event: cancel.set(), cancel=cancel)


def test_inspect_does_not_read_the_layers_of_a_file() -> None:
    class Counted(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.count += len(data)
            return data

    source = Counted(archive_of(shapes.big(8 << 20)))
    assert pyctrd.inspect_archive(source).images[0].complete
    assert source.count < 100_000


def test_too_many_documents_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyctrd.operations.archives.files._MAX_HELD_BYTES", 1000)
    graph = shapes.five_platform()
    assert verify(archive_of(graph)).ok
    with pytest.raises(ArchiveError, match="cannot be read a second time") as caught:
        verify(gzip.compress(archive_of(graph)))
    assert caught.value.hint == "pass a file that is not compressed"


def test_links_in_dockers_archive() -> None:
    graph = shapes.recompressed("")
    files = docker_archive(graph, "app:v1")
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        content = {item.name: (archive.extractfile(item) or io.BytesIO()).read() for item in archive}
    content["manifest.json"] = content["manifest.json"].replace(b'"0.tar"', b'"0/layer.tar"')
    linked = member("0/layer.tar", kind=tarfile.SYMTYPE, target="../0.tar") + tar_of(content)
    assert verify(linked).ok
