"""The model: digests, and documents with any content."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import ContentError, InvalidReference
from pyctrd.oci.mediatypes import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from pyctrd.oci.model import Descriptor, Digest, ImageConfig, Index, Manifest, Platform, RootFS, parse_json

HEX = "0123456789abcdef" * 4
DOCUMENTS = (Manifest, Index, ImageConfig)


def descriptor(media_type: str, data: bytes = b"", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data), **more}


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST,
    "config": descriptor(OCI_CONFIG, b"{}"),
    "layers": [descriptor(OCI_LAYER_GZIP, b"layer")],
}

# --- digests ----------------------------------------------------------------------------------------------


@given(st.binary(), st.sampled_from(["sha256", "sha384", "sha512"]))
def test_digests_of_bytes(data: bytes, algorithm: str) -> None:
    digest = Digest.of(data, algorithm)
    assert digest == f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    assert Digest(str(digest)) == digest
    assert (digest.algorithm, digest.encoded) == tuple(digest.split(":"))
    assert digest.startswith(digest.short)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid checksum digest format"),
        ("sha256", "invalid checksum digest format"),
        ("sha256:", "invalid checksum digest format"),
        (HEX, "invalid checksum digest format"),
        (f"sha256:{HEX}\n", "invalid checksum digest format"),
        (f"sha256:../../{HEX[6:]}", "invalid checksum digest format"),
        (f"sha256:{HEX[1:]}", "invalid checksum digest length"),
        (f"sha256:{HEX}0", "invalid checksum digest length"),
        (f"sha512:{HEX}", "invalid checksum digest length"),
        (f"sha256:{HEX.upper()}", "invalid checksum digest"),
        (f"sha256:{HEX[:-1]}g", "invalid checksum digest"),
        (f"md5:{HEX[:32]}", "unsupported digest algorithm"),
        (f"sha256+b64:{HEX}", "unsupported digest algorithm"),
    ],
)
def test_an_invalid_digest_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidReference, match=reason):
        Digest(text)


@given(st.text() | st.from_regex(r"sha256:[0-9a-f]{63,65}.?", fullmatch=True))
def test_any_text_is_a_digest_or_an_invalid_reference(text: str) -> None:
    try:
        digest = Digest(text)
    except InvalidReference:
        return
    assert digest == text
    assert len(digest.encoded) == 64 if digest.algorithm == "sha256" else len(digest.encoded) in (96, 128)


# --- valid documents --------------------------------------------------------------------------------------


def test_a_manifest_keeps_its_bytes() -> None:
    raw = json.dumps(MANIFEST, indent=3).encode() + b"\n"
    manifest = Manifest.parse(raw)
    assert manifest.raw == raw
    assert manifest.config.digest == Digest.of(b"{}")
    assert [layer.media_type for layer in manifest.layers] == [OCI_LAYER_GZIP]
    assert manifest.media_type == OCI_MANIFEST


def test_an_index_reads_platforms_with_their_dotted_names() -> None:
    platform = {
        "architecture": "amd64",
        "os": "windows",
        "os.version": "10.0.17763.1",
        "os.features": ["win32k"],
        "features": ["sse4"],
    }
    raw = encoded({"manifests": [descriptor(OCI_MANIFEST, platform=platform), descriptor(OCI_INDEX)]})
    first, second = Index.parse(raw).manifests
    assert first.platform == Platform(
        architecture="amd64", os="windows", os_version="10.0.17763.1", os_features=("win32k",)
    )
    assert second.platform is None


def test_inline_data_is_base64() -> None:
    raw = encoded({"config": descriptor(OCI_CONFIG, b"{}") | {"data": "e30="}})
    assert Manifest.parse(raw).config.data == b"{}"


def test_null_means_absent_as_in_gos_decoder() -> None:
    document = {
        "config": descriptor(OCI_CONFIG)
        | {"platform": None, "urls": None, "annotations": {"a": None, "b": "c"}, "data": None},
        "layers": None,
        "subject": None,
        "annotations": None,
        "mediaType": None,
        "schemaVersion": None,
    }
    manifest = Manifest.parse(encoded(document))
    assert manifest.layers == ()
    assert manifest.config.platform is None
    assert manifest.config.urls == ()
    assert manifest.config.annotations["b"] == "c"
    assert Index.parse(b'{"manifests": null}').manifests == ()
    assert ImageConfig.parse(b'{"rootfs": null, "os": null}').rootfs == RootFS()


def test_unknown_fields_are_ignored() -> None:
    document = MANIFEST | {"x": [1, {"y": None}], "history": "", "raw": 5}
    manifest = Manifest.parse(encoded(document))
    assert manifest.raw == encoded(document)


def test_a_config_has_a_platform_and_diff_ids() -> None:
    diff_ids = [str(Digest.of(bytes([number]))) for number in range(3)]
    raw = encoded(
        {
            "architecture": "arm",
            "os": "linux",
            "variant": "v7",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )
    config = ImageConfig.parse(raw)
    assert config.platform == Platform(architecture="arm", os="linux", variant="v7")
    assert list(config.rootfs.diff_ids) == diff_ids


def test_chain_ids_are_computed_as_in_the_image_spec() -> None:
    first, second, third = (Digest.of(bytes([number])) for number in range(3))
    chain = RootFS(stated=(first, second, third)).chain_ids
    two = Digest.of(f"{first} {second}".encode())
    assert chain == (first, two, Digest.of(f"{two} {third}".encode()))
    assert RootFS().chain_ids == ()


def test_equal_descriptors_have_equal_hashes_and_others_rarely() -> None:
    one = Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(b""), size=0, annotations={"a": "1", "b": "2"})
    other = msgspec.structs.replace(one, platform=Platform(os="linux", architecture="amd64"))
    assert hash(one) == hash(msgspec.structs.replace(one, annotations={"b": "2", "a": "1"}))
    assert one != other
    listed_often = [
        msgspec.structs.replace(one, platform=Platform(os="linux", architecture=f"a{number}"))
        for number in range(100)
    ] + [msgspec.structs.replace(one, annotations={"number": str(number)}) for number in range(100)]
    assert len(set(map(hash, listed_often))) > 190
    assert len({one, other, msgspec.structs.replace(one)}) == 2
    with pytest.raises(AttributeError):
        one.size = 1  # type: ignore[misc]


# --- invalid documents ------------------------------------------------------------------------------------

GOOD = descriptor(OCI_CONFIG)


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"\x00",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"{",
        b'{"a": 1} {"b": 2}',
        b"{'a': 1}",
        b"\xff\xfe{}",
        b'{"a": "\xff"}',
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 5_000 + b"]" * 5_000,
        b'{"a": ' + b"[" * 900 + b"]" * 900,
        b"\x1f\x8b\x08\x00",
    ],
    ids=lambda value: repr(value[:16]) if isinstance(value, bytes) else value.__name__,
)
def test_invalid_json_is_a_content_error(kind: type[Manifest], raw: bytes) -> None:
    with pytest.raises(ContentError):
        kind.parse(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": []},
        {"config": "sha256:x"},
        {"config": {}},
        {"config": GOOD | {"digest": "sha256:short"}},
        {"config": GOOD | {"digest": f"sha256:../{HEX[3:]}"}},
        {"config": GOOD | {"digest": 5}},
        {"config": GOOD | {"digest": ["a"]}},
        {"config": GOOD | {"size": -1}},
        {"config": GOOD | {"size": "12"}},
        {"config": GOOD | {"size": 1.5}},
        {"config": GOOD | {"size": True}},
        {"config": GOOD | {"size": 2**63}},
        {"config": GOOD | {"size": 10**400}},
        {"config": GOOD | {"size": None}},
        {"config": GOOD | {"mediaType": 1}},
        {"config": GOOD | {"mediaType": None}},
        {"config": GOOD | {"urls": "http://x"}},
        {"config": GOOD | {"urls": [1]}},
        {"config": GOOD | {"annotations": ["a"]}},
        {"config": GOOD | {"annotations": {"a": 1}}},
        {"config": GOOD | {"annotations": {"a": {"b": "c"}}}},
        {"config": GOOD | {"platform": "linux/amd64"}},
        {"config": GOOD | {"platform": {"os.features": "win32k"}}},
        {"config": GOOD | {"data": "*not base64*"}},
        {"config": GOOD | {"data": 1}},
        {"layers": {}},
        {"layers": [[]]},
        {"layers": ["sha256:x"]},
        {"layers": [GOOD | {"size": -1}]},
        {"subject": "x"},
        {"annotations": "x"},
        {"schemaVersion": "2"},
        {"mediaType": ["x"]},
    ],
    ids=str,
)
def test_a_manifest_with_wrong_types_is_a_content_error(changes: dict[str, Any]) -> None:
    Manifest.parse(encoded(MANIFEST))
    with pytest.raises(ContentError, match="not a valid manifest"):
        Manifest.parse(encoded(MANIFEST | changes))


@pytest.mark.parametrize(
    "document", [{"manifests": {}}, {"manifests": [1]}, {"manifests": [MANIFEST]}, {"manifests": [[GOOD]]}]
)
def test_an_index_with_wrong_types_is_a_content_error(document: dict[str, Any]) -> None:
    with pytest.raises(ContentError, match="not a valid index"):
        Index.parse(encoded(document))


@pytest.mark.parametrize(
    "document",
    [
        {"rootfs": []},
        {"rootfs": {"diff_ids": "x"}},
        {"rootfs": {"diff_ids": [1]}},
        {"os": 1},
        {"os.features": {}},
    ],
)
def test_a_config_with_wrong_types_is_a_content_error(document: dict[str, Any]) -> None:
    with pytest.raises(ContentError, match="not a valid imageconfig"):
        ImageConfig.parse(encoded(document))


def test_diff_ids_are_checked_when_they_are_used() -> None:
    rootfs = ImageConfig.parse(encoded({"rootfs": {"diff_ids": [str(Digest.of(b"")), "x"]}})).rootfs
    for name in ("diff_ids", "chain_ids"):
        with pytest.raises(
            ContentError, match="not a valid imageconfig: invalid checksum digest format: 'x'"
        ):
            getattr(rootfs, name)


def test_the_last_of_repeated_keys_counts_as_in_gos_decoder() -> None:
    raw = encoded(MANIFEST)[:-1] + b', "layers": []}'
    assert Manifest.parse(raw).layers == ()
    assert Manifest.parse(raw).raw == raw


def test_huge_numbers_in_unknown_fields_are_ignored() -> None:
    manifest = Manifest.parse(encoded(MANIFEST)[:-1] + b', "x": ' + b"9" * 300 + b"}")
    assert manifest.config.size == 2


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_known = st.sampled_from(
    [
        "config",
        "layers",
        "manifests",
        "mediaType",
        "digest",
        "size",
        "platform",
        "os.features",
        "rootfs",
        "diff_ids",
    ]
)


@given(st.binary() | _json.map(encoded) | st.dictionaries(_known, _json).map(encoded))
def test_any_bytes_are_a_document_or_a_content_error(raw: bytes) -> None:
    for kind in DOCUMENTS:
        try:
            assert kind.parse(raw).raw == raw
        except ContentError as error:
            assert str(error)  # noqa: PT017 - not every input is an error


@given(st.dictionaries(_known, _json), st.data())
def test_any_json_is_a_descriptor_or_a_content_error(changes: dict[str, Any], data: st.DataObject) -> None:
    where = data.draw(st.sampled_from(["config", "subject"]))
    try:
        Manifest.parse(encoded(MANIFEST | {where: GOOD | changes}))
    except ContentError:
        return


@given(_json)
def test_json_is_parsed_like_the_standard_library_without_nulls(document: Any) -> None:
    def without_nulls(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_nulls(item) for key, item in value.items() if item is not None}
        return [without_nulls(item) for item in value] if isinstance(value, list) else value

    assert parse_json(encoded(document)) == without_nulls(json.loads(encoded(document)))


# --- threads ----------------------------------------------------------------------------------------------

FIRST_USE = """
import sys, threading
from pyctrd.oci.model import ImageConfig, Index, Manifest

sys.setswitchinterval(1e-6)
blob = b'{"mediaType":"a","digest":"sha256:' + b"0" * 64 + b'","size":1}'
documents = [
    (Index, b'{"schemaVersion":2,"manifests":[' + blob + b"]}"),
    (Manifest, b'{"schemaVersion":2,"config":' + blob + b',"layers":[]}'),
    (ImageConfig, b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'),
]
start = threading.Barrier(24)
parsed = []

def parse(kind, raw):
    start.wait()
    parsed.append(kind.parse(raw))

threads = [threading.Thread(target=parse, args=documents[number % 3]) for number in range(24)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(parsed) == 24
"""


def test_concurrent_first_use_of_the_parser_is_safe() -> None:
    """msgspec prepares a type at its first use, and crashes if two threads do so at once."""
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
