"""Archives that were made to do harm, or that were damaged, with the exit code and the message for each."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.support import images, shapes
from tests.support.images import Graph, to_json
from tests.support.tars import member, tar, tar_of

NAME = "registry.example/team/app:latest"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
PAX = tarfile.XHDTYPE
# A frame whose window has 2 GiB, as its sixth byte says.
ZSTD_WINDOW = b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00" * 100


class Case(NamedTuple):
    """An archive, and what load says of it."""

    data: Callable[[], bytes]
    message: str
    code: int = 1


def files(graph: Graph | None = None, **index: Any) -> dict[str, bytes]:
    """The files of the layout of an image; `index` replaces members of its entry in index.json."""
    graph = graph or image()
    entry = {**graph.root, "annotations": {"io.containerd.image.name": NAME}, **index}
    return {
        **{f"blobs/sha256/{digest[7:]}": data for digest, data in graph.blobs.items()},
        "index.json": to_json({"schemaVersion": 2, "manifests": [entry]}),
        "oci-layout": LAYOUT,
    }


def image(size: int = 300_000) -> Graph:
    """An image of one layer, which is too large to be kept in memory while a pipe is read."""
    made = images.random_layer(size, seed=7)
    return images.manifest(images.config([made]), [made])


def layer_path(graph: Graph) -> str:
    return f"blobs/sha256/{graph.document()['layers'][0]['digest'][7:]}"


def changed(graph: Graph, **replaced: bytes) -> dict[str, bytes]:
    """The files of an image, with other bytes for its manifest, config or layer."""
    document = graph.document()
    digests = {
        "manifest": graph.digest,
        "config": document["config"]["digest"],
        "layer": document["layers"][0]["digest"],
    }
    return {
        **files(graph),
        **{f"blobs/sha256/{digests[what][7:]}": data for what, data in replaced.items()},
    }


def manifest_with(raw: Callable[[bytes], bytes]) -> dict[str, bytes]:
    """The files of an image whose manifest has other bytes, with the right digest for them."""
    graph = image()
    made = images.Blob(raw(graph.blobs[graph.digest]), images.OCI_MANIFEST)
    return files(Graph(made.descriptor, {**graph.blobs, made.digest: made.data}))


def docker(**replaced: Any) -> dict[str, bytes]:
    """The files of docker's archive; `replaced` are members of the entry in manifest.json."""
    made = images.random_layer(300_000, seed=8, compression="")
    entry = {"Config": "config.json", "RepoTags": ["app:v1"], "Layers": ["layer.tar"], **replaced}
    return {
        "layer.tar": made.data,
        "config.json": images.config([made]).data,
        "manifest.json": to_json([entry]),
    }


def with_members(*members: bytes) -> bytes:
    """The members, before those of an image."""
    return b"".join(members) + tar_of(files())


def deep(levels: int) -> Graph:
    graph = shapes.single()
    for _ in range(levels):
        graph = images.index([graph])
    return graph


def wide(count: int) -> Graph:
    """An index that lists one manifest many times, for different platforms."""
    child = shapes.single()
    listed = [{**child.root, "platform": {"os": "linux", "architecture": f"a{n}"}} for n in range(count)]
    made = images.Blob(to_json({"schemaVersion": 2, "manifests": listed}), images.OCI_INDEX)
    return Graph(made.descriptor, {**child.blobs, made.digest: made.data})


def _json_depth() -> bytes:
    return b'{"schemaVersion":2,"manifests":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def _twice(raw: bytes) -> bytes:
    return b'{"layers":[],' + raw[1:]


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    return member(name, kind=kind, target=target)


def _index_of(document: object) -> dict[str, bytes]:
    raw = document if isinstance(document, bytes) else to_json(document)
    return {"index.json": raw, "oci-layout": LAYOUT}


HOSTILE: Mapping[str, Case] = {
    # --- the tar
    "path-traversal": Case(lambda: with_members(member("../../etc/cron.d/x", b"x")), "out of the archive"),
    "absolute-name": Case(lambda: with_members(member("/etc/passwd", b"x")), "is absolute"),
    "symlink-out": Case(lambda: with_members(_link("a", "../../etc/passwd")), "leads out of the archive"),
    "symlink-absolute": Case(lambda: with_members(_link("a", "/etc/passwd")), "is absolute"),
    "hardlink-out": Case(lambda: with_members(_link("a", "../b", tarfile.LNKTYPE)), "out of the archive"),
    "symlink-cycle": Case(
        lambda: (
            tar(_link("layer.tar", "b"), _link("b", "layer.tar")[:512])[:1024]
            + tar_of({name: data for name, data in docker().items() if name != "layer.tar"})
        ),
        "leads back to itself",
    ),
    "character-device": Case(lambda: with_members(member("a", kind=tarfile.CHRTYPE)), "a character device"),
    "block-device": Case(lambda: with_members(member("a", kind=tarfile.BLKTYPE)), "a block device"),
    "named-pipe": Case(lambda: with_members(member("a", kind=tarfile.FIFOTYPE)), "a named pipe"),
    "sparse-gnu": Case(lambda: with_members(member("a", kind=tarfile.GNUTYPE_SPARSE)), "a sparse file"),
    "sparse-pax": Case(
        lambda: with_members(member("x", b"22 GNU.sparse.major=1\n", kind=PAX), member("a")), "a sparse file"
    ),
    "two-indexes": Case(lambda: with_members(member("index.json", b"[]")), "is in the archive twice"),
    "two-blobs": Case(lambda: with_members(member(layer_path(image()), b"x")), "twice|wrong content"),
    "huge-member": Case(lambda: with_members(member("a", size=1 << 60)), "a member of 1152921504606846976"),
    "huge-pax-header": Case(lambda: with_members(member("a", size=1 << 33, kind=PAX)), "an extended header"),
    "pax-chain": Case(lambda: with_members(*[member("a", b"9 path=a\n", kind=PAX)] * 2000), "too many"),
    "pax-digits": Case(lambda: with_members(member("a", b"1" * 900_000, kind=PAX)), "an invalid PAX record"),
    "many-members": Case(lambda: gzip.compress(member("a") * 100_001), "more than 100000 members|twice"),
    "garbage-header": Case(lambda: with_members(member("a", b"x"), b"\xff" * 512), "invalid tar header"),
    "truncated": Case(lambda: tar_of(files())[:100_000], "unexpected EOF"),
    "not-an-archive": Case(lambda: b"<html>not found</html>" * 100, "neither a tar nor a compressed tar"),
    "empty": Case(lambda: b"", "the archive is empty"),
    "only-an-end": Case(lambda: bytes(1024), "unrecognized image format"),
    # --- the compression
    "truncated-gzip": Case(lambda: gzip.compress(tar_of(files()))[:100_000], "unexpected EOF: the gzip data"),
    "damaged-gzip": Case(
        lambda: gzip.compress(tar_of(files()))[:50_000] + b"\xff" * 400_000, "damaged gzip data"
    ),
    "zstd-window": Case(lambda: ZSTD_WINDOW, "damaged zstd data"),
    # --- an OCI layout
    "wrong-layer": Case(
        lambda: tar_of(changed(image(), layer=image(300_001).blobs[_layer(image(300_001))][: _size()])),
        "wrong content for blobs/sha256",
    ),
    "wrong-manifest": Case(
        lambda: tar_of(changed(image(), manifest=bytes(len(image().blobs[image().digest])))),
        "wrong content for blobs/sha256",
    ),
    "wrong-config": Case(
        lambda: tar_of(changed(image(), config=b"{" + b" " * (_config_size() - 2) + b"}")),
        "wrong content for blobs/sha256",
    ),
    "other-size": Case(lambda: tar_of(changed(image(), layer=bytes(200_000))), "has 200000 bytes, but|wrong"),
    "no-index": Case(lambda: tar_of({"oci-layout": LAYOUT}), "missing index.json in OCI layout"),
    "other-version": Case(lambda: tar_of({"oci-layout": b'{"imageLayoutVersion":"2"}'}), "unsupported OCI"),
    "index-is-text": Case(lambda: tar_of(_index_of(b"manifests")), "index.json of the archive: not valid"),
    "index-is-huge": Case(lambda: tar_of(_index_of(b" " * (21 << 20))), "more than 20971520 are not read"),
    "index-is-deep": Case(lambda: tar_of(_index_of(_json_depth())), "nested more than 64 levels"),
    "index-is-empty": Case(lambda: tar_of(_index_of({"manifests": []})), "there is no image"),
    "negative-size": Case(lambda: tar_of(files(size=-1)), "index.json of the archive: not a valid index"),
    "unknown-digest": Case(lambda: tar_of(files(digest="md5:" + "0" * 32)), "unsupported digest algorithm"),
    "entry-is-a-layer": Case(lambda: tar_of(files(mediaType=images.OCI_LAYER)), "neither an index nor"),
    "name-with-escapes": Case(
        lambda: tar_of(files(annotations={"io.containerd.image.name": "a\x1b[2J:v1"})),
        "invalid name of",
    ),
    "name-of-a-megabyte": Case(
        lambda: tar_of(files(annotations={"io.containerd.image.name": "a" * (1 << 20)})),
        "invalid name of",
    ),
    "duplicate-key": Case(lambda: tar_of(manifest_with(_twice)), "duplicate key 'layers'"),
    "index-as-manifest": Case(lambda: tar_of(files(mediaType=images.OCI_INDEX)), "expected index but found"),
    "huge-manifest": Case(
        lambda: tar_of(manifest_with(lambda raw: raw + b" " * (5 << 20))), "rejecting .* byte manifest"
    ),
    "other-platform": Case(lambda: tar_of(files(_lying())), "the index says linux/amd64, but the config"),
    "deep-indexes": Case(lambda: tar_of(files(deep(20))), "nested more than 16 levels deep"),
    "wide-index": Case(lambda: tar_of(files(wide(10_001))), "10001 entries: more than 10000"),
    "missing-layer": Case(
        lambda: tar_of({name: data for name, data in files().items() if name != layer_path(image())}),
        "content digest sha256:.*: not found",
        4,
    ),
    "missing-platform": Case(
        lambda: tar_of(files(shapes.multi(["linux/s390x"]))), "no match for platform in the archive", 3
    ),
    # --- docker's archive
    "docker-no-list": Case(lambda: tar_of({**docker(), "manifest.json": b"{}"}), "not a list of images"),
    "docker-no-config": Case(lambda: tar_of(docker(Config="../config.json")), "'../config.json' not found"),
    "docker-no-layer": Case(lambda: tar_of(docker(Layers=["/etc/passwd"])), "'/etc/passwd' not found"),
    "docker-more-layers": Case(lambda: tar_of(docker(Layers=["layer.tar"] * 2)), "1 diff ids in config.json"),
    "docker-wrong-layer": Case(
        lambda: tar_of({**docker(), "layer.tar": tar_of({"a": bytes(300_000)})}),
        "wrong content|diff id",
    ),
    "docker-config-is-text": Case(lambda: tar_of({**docker(), "config.json": b"text"}), "not valid JSON"),
    "docker-bad-tag": Case(lambda: tar_of(docker(RepoTags=["Upper:v1"])), "must be lowercase"),
}


def _layer(graph: Graph) -> str:
    return str(graph.document()["layers"][0]["digest"])


def _size() -> int:
    return len(image().blobs[_layer(image())])


def _config_size() -> int:
    graph = image()
    return len(graph.blobs[graph.document()["config"]["digest"]])


def _lying() -> Graph:
    """An index that lists an image for s390x as one for amd64."""
    child = shapes.single("linux/s390x")
    listed = [{**child.root, "platform": images.platform("linux/amd64")}]
    made = images.Blob(json.dumps({"schemaVersion": 2, "manifests": listed}).encode(), images.OCI_INDEX)
    return Graph(made.descriptor, {**child.blobs, made.digest: made.data})
