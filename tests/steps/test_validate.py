"""Which documents are valid, and which are refused before they are stored."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Iterator

import pytest

from pyctrd.errors import ContentError, RegistryContentError
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import (
    MAX_JSON_DEPTH,
    MAX_JSON_ELEMENTS,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Digest,
    parse_json,
)
from pyctrd.oci.platforms import parse, select
from pyctrd.steps.validate import Validator, fetch

LAYER = {"mediaType": mediatypes.OCI_LAYER_GZIP, "digest": str(Digest.of(b"layer")), "size": 5}
CONFIG = {"mediaType": mediatypes.OCI_CONFIG, "digest": str(Digest.of(b"config")), "size": 6}
MANIFEST = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}


def described(raw: bytes, media_type: str = mediatypes.OCI_MANIFEST, **fields: object) -> Descriptor:
    members = {"media_type": media_type, "digest": Digest.of(raw), "size": len(raw), **fields}
    return Descriptor(**members)  # type: ignore[arg-type]


def check(document: object, media_type: str = mediatypes.OCI_MANIFEST) -> None:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    Validator().check(described(raw, media_type), raw)


def test_valid_documents_are_accepted() -> None:
    check(MANIFEST)
    check({**MANIFEST, "annotations": {"Config": "1", "config": "2", "Digest": ""}})
    check({key: value for key, value in MANIFEST.items() if key != "mediaType"})
    check({"schemaVersion": 2, "manifests": []}, mediatypes.OCI_INDEX)
    check({"os": "linux", "architecture": "amd64", "OS": "x"}, mediatypes.OCI_CONFIG)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({**MANIFEST, "mediaType": mediatypes.DOCKER_MANIFEST}, "media-type: expected .*oci.*found .*docker"),
        ({**MANIFEST, "Layers": []}, "'Layers' has to be 'layers'"),
        ({**MANIFEST, "config": {**CONFIG, "SIZE": 1}}, "'SIZE' has to be 'size'"),
        ({**MANIFEST, "layers": [{**LAYER, "Digest": "x"}]}, "'Digest' has to be 'digest'"),
        (json.dumps(MANIFEST).encode()[:-1] + b',"layers":[]}', "duplicate key 'layers'"),
        (b'{"a":{"b":1,"b":2},' + json.dumps(MANIFEST).encode()[1:], "duplicate key 'b'"),
        ({**MANIFEST, "layers": [LAYER] * (graph.MAX_CHILDREN + 1)}, "10002 entries: more than 10000"),
        (b"[]", "expected manifest but found list"),
        (b"", "not valid JSON"),
    ],
)
def test_ambiguous_documents_are_refused(document: object, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        check(document)


def test_a_config_must_have_the_platform_of_the_descriptor() -> None:
    config = b'{"os":"linux","architecture":"s390x"}'
    child = described(config, mediatypes.OCI_CONFIG)
    for promised, refused in (("linux/amd64", True), ("linux/s390x", False), ("linux/arm64", False)):
        documents = Validator()
        parent = described(b"{}", platform=parse(promised))
        step = documents.watch(lambda _: [child], select(["linux/amd64", "linux/s390x"]).resolve().matcher)
        assert list(step(parent)) == [child]
        with (
            pytest.raises(ContentError, match="the index says linux/amd64")
            if refused
            else contextlib.nullcontext()
        ):
            documents.check(child, config)


class Source:
    """A repository that serves these bytes for every request."""

    host, repository = "a.example", "team/app"

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @contextlib.contextmanager
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        yield iter([self.raw[offset:]])


def test_wrong_bytes_and_large_documents_are_refused() -> None:
    descriptor = described(b"one")
    assert fetch(Source(b"one"), descriptor) == b"one"
    with pytest.raises(RegistryContentError, match="wrong content for sha256:") as caught:
        fetch(Source(b"two"), descriptor)
    assert (caught.value.host, caught.value.repository) == ("a.example", "team/app")
    large = described(b"", size=MAX_MANIFEST_BYTES + 1)
    with pytest.raises(RegistryContentError, match="rejecting 4393217 byte manifest"):
        fetch(Source(b""), large)
    sha512 = described(b"one", digest=Digest.of(b"one", "sha512"))
    assert fetch(Source(b"one"), sha512) == b"one"


# --- JSON -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1),
        b'{"a":' * 99 + b"1" + b"}" * 99,
        b"[" + b"0," * (MAX_JSON_ELEMENTS + 1) + b"0]",
        b"[" + b"{}," * (MAX_JSON_ELEMENTS // 2 + 1) + b"0]",
        b"[" * 2_000_000,
        b'"' + b'\\"' * 2_000_000,
        b"9" * 4_000_000,
    ],
)
def test_json_bombs_are_refused_in_little_memory(raw: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ContentError, match="not valid JSON"):
            parse_json(raw)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_brackets_in_strings_are_not_counted() -> None:
    texts = ["[{" * 1000, ',\\"' * 300_000, 'a"]}b\\']
    assert parse_json(json.dumps(texts).encode()) == texts
    deep = b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH
    assert parse_json(deep)
