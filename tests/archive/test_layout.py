"""The layout: names, order and JSON as containerd's exporter writes them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.archive.layout import ArchiveImage, DockerEntry, Layout, build
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest, Platform

HOST_LABEL = "containerd.io/distribution.source.registry.example"


def descriptor(content: bytes, media_type: str = mediatypes.OCI_LAYER_GZIP, **more: Any) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.of(content), size=len(content), **more)


INDEX = descriptor(b"index", mediatypes.OCI_INDEX)
MANIFEST = descriptor(b"manifest", mediatypes.OCI_MANIFEST)
CONFIG = descriptor(b"config", mediatypes.OCI_CONFIG)
LAYERS = (descriptor(b"layer 0"), descriptor(b"layer 1"))
DOCKER = DockerEntry(
    manifest=MANIFEST.digest, config=CONFIG.digest, layers=tuple(item.digest for item in LAYERS)
)


def image(name: str = "docker.io/library/foo:latest", **more: Any) -> ArchiveImage:
    made = ArchiveImage(name=name, entries=(INDEX,), docker=DOCKER, blobs=(INDEX, MANIFEST, CONFIG, *LAYERS))
    return msgspec.structs.replace(made, **more)


def text(layout: Layout, name: str) -> str:
    (entry,) = [item for item in layout.entries if item.name == name]
    assert isinstance(entry.source, bytes)
    assert entry.size == len(entry.source)
    return entry.source.decode()


def document(layout: Layout, name: str) -> Any:
    return json.loads(text(layout, name))


def test_one_image_to_the_byte() -> None:
    layout = build([image(sources={HOST_LABEL: "a,b"})])
    blobs = sorted(f"blobs/sha256/{item.digest.encoded}" for item in image().blobs)
    names = ["blobs/", "blobs/sha256/", *blobs, "index.json", "manifest.json", "oci-layout"]
    assert [item.name for item in layout.entries] == names
    assert [item.mode for item in layout.entries] == [0o755] * 2 + [0o444] * 5 + [0o644, 0o644, 0o444]
    assert text(layout, "oci-layout") == '{"imageLayoutVersion":"1.0.0"}'
    assert text(layout, "index.json") == (
        '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":['
        '{"mediaType":"application/vnd.oci.image.index.v1+json",'
        f'"digest":"{INDEX.digest}","size":5,"annotations":{{'
        f'"{HOST_LABEL}":"a,b",'
        '"io.containerd.image.name":"docker.io/library/foo:latest",'
        '"org.opencontainers.image.ref.name":"latest"}}]}'
    )
    layers = ",".join(f'"blobs/sha256/{item.digest.encoded}"' for item in LAYERS)
    assert text(layout, "manifest.json") == (
        f'[{{"Config":"blobs/sha256/{CONFIG.digest.encoded}","RepoTags":["foo:latest"],"Layers":[{layers}]}}]'
    )


def test_descriptor_fields_stand_in_gos_order_and_are_escaped_like_gos() -> None:
    entry = descriptor(
        b"x",
        mediatypes.OCI_MANIFEST,
        urls=("http://a/?b&c",),
        annotations={"z": "<é\u2028>", "a": "\x01\x7f"},
        data=b"x",
        platform=Platform(os="linux", architecture="arm", variant="v7", os_features=("f",), os_version="1"),
        artifact_type="t",
    )
    found = text(build([image(entries=(entry,))]), "index.json")
    assert found.split('"manifests":')[1] == (
        f'[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{entry.digest}","size":1,'
        '"urls":["http://a/?b\\u0026c"],'
        '"annotations":{"a":"\\u0001\x7f","io.containerd.image.name":"docker.io/library/foo:latest",'
        '"org.opencontainers.image.ref.name":"latest","z":"\\u003cé\\u2028\\u003e"},"data":"eA==",'
        '"platform":{"architecture":"arm","os":"linux","os.version":"1","os.features":["f"],"variant":"v7"},'
        '"artifactType":"t"}]}'
    )


@pytest.mark.parametrize(
    ("name", "ref_name", "tags"),
    [
        ("docker.io/library/foo:latest", "latest", ["foo:latest"]),
        ("registry.example:5000/a/b:1", "1", ["registry.example:5000/a/b:1"]),
        ("docker.io/team/app:1", "1", ["team/app:1"]),
        ("docker.io/library/foo", "docker.io/library/foo", ["foo:latest"]),
        ("bare", "bare", ["bare:latest"]),
        ("No Reference!", None, None),
        (f"docker.io/library/foo@{CONFIG.digest}", f"docker.io/library/foo@{CONFIG.digest}", None),
        (f"docker.io/library/foo:1@{CONFIG.digest}", f"1@{CONFIG.digest}", None),
    ],
)
def test_names(name: str, ref_name: str | None, tags: list[str] | None) -> None:
    layout = build([image(name)])
    annotations = document(layout, "index.json")["manifests"][0]["annotations"]
    assert annotations["io.containerd.image.name"] == name
    if ref_name is not None:
        assert annotations["org.opencontainers.image.ref.name"] == ref_name
    assert document(layout, "manifest.json")[0]["RepoTags"] == tags


def test_names_are_repeated_as_asked_and_blobs_are_not() -> None:
    a, b = image("docker.io/library/a:1"), image("docker.io/library/b:1")
    layout = build([a, b, a])
    assert [item["RepoTags"] for item in document(layout, "manifest.json")] == [["a:1", "b:1", "a:1"]]
    assert len(document(layout, "index.json")["manifests"]) == 3
    assert len({item.name for item in layout.entries}) == len(layout.entries)


def test_tags_of_a_manifest_saved_by_itself_survive_an_index_that_holds_it() -> None:
    single = image("docker.io/library/single:1", entries=(MANIFEST,), blobs=(MANIFEST, CONFIG, *LAYERS))
    for order in ([single, image()], [image(), single]):
        (entry,) = document(build(order), "manifest.json")
        assert sorted(entry["RepoTags"]) == ["foo:latest", "single:1"]


def test_manifest_json_follows_the_order_of_the_arguments() -> None:
    made = []
    for number in range(5):
        manifest = Digest.of(f"{number}".encode())
        made.append(
            image(
                f"docker.io/library/i:{number}", docker=DockerEntry(manifest=manifest, config=CONFIG.digest)
            )
        )
    tags = [item["RepoTags"][0] for item in document(build(made[::-1]), "manifest.json")]
    assert tags == [f"i:{number}" for number in (4, 3, 2, 1, 0)]


def test_without_layers_and_without_a_manifest_for_docker() -> None:
    entry = DockerEntry(manifest=MANIFEST.digest, config=CONFIG.digest)
    assert '"Layers":null' in text(build([image(docker=entry)]), "manifest.json")
    assert "manifest.json" not in {item.name for item in build([image(docker=None)]).entries}


def test_reproducible_leaves_out_where_images_came_from() -> None:
    stored = descriptor(b"index", mediatypes.OCI_INDEX, annotations={HOST_LABEL: "old", "kept": "yes"})
    here = build([image(entries=(stored,), sources={HOST_LABEL: "a"})], reproducible=True)
    there = build([image(entries=(INDEX,), sources={HOST_LABEL: "b"})], reproducible=True)
    assert HOST_LABEL not in text(here, "index.json")
    assert document(here, "index.json")["manifests"][0]["annotations"].pop("kept") == "yes"
    assert there == build([image()])


def test_an_empty_index_has_no_folder() -> None:
    names = [item.name for item in build([image(docker=None, blobs=(INDEX,))]).entries]
    assert names == [f"blobs/sha256/{INDEX.digest.encoded}", "index.json", "oci-layout"]


def test_generated_blobs_bring_their_bytes() -> None:
    layout = build([image(generated={INDEX.digest: b"index"})])
    assert text(layout, f"blobs/sha256/{INDEX.digest.encoded}") == "index"
    assert INDEX.digest not in layout.blobs
    assert MANIFEST.digest in layout.blobs


@given(st.lists(st.binary(min_size=1), max_size=20), st.permutations(["a:1", "b:1", "c:1"]))
def test_any_blobs_are_sorted_and_there_once(contents: list[bytes], names: list[str]) -> None:
    blobs = tuple(descriptor(data) for data in contents)
    layout = build([image(f"docker.io/library/{name}", blobs=(INDEX, *blobs)) for name in names])
    found = [item.name for item in layout.entries]
    assert found == sorted(set(found))
    assert set(layout.blobs) == {INDEX.digest, *(item.digest for item in blobs)}
