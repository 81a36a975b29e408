"""Digests, descriptors, manifests, and containerd's records of them. All values are immutable.

Documents keep the bytes they were parsed from, because a digest is computed from bytes, not from a model.
Sources: OCI image-spec descriptor.md, manifest.md, image-index.md, config.md; containerd api/types.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import threading
from collections.abc import Mapping
from typing import Annotated, Any, Final, NoReturn, Self, TypeVar

import msgspec

from pyctrd.errors import ContentError, InvalidReference
from pyctrd.oci.expiry import expiry_of

# The label that pins an image, and its value (containerd internal/cri/labels/labels.go).
PINNED_LABEL: Final = "io.cri-containerd.pinned"
PINNED: Final = "pinned"

# containerd does not read larger manifests (core/remotes/docker/resolver.go, MaxManifestSize).
MAX_MANIFEST_BYTES: Final = 4 * 1048 * 1048
# containerd has no limit for configs; this one only stops a registry from filling the memory.
MAX_CONFIG_BYTES: Final = 64 << 20

# No image needs more; malicious JSON may take much more memory than it has bytes.
MAX_JSON_DEPTH: Final = 64
MAX_JSON_ELEMENTS: Final = 250_000

_converting = threading.Lock()
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.|\\\Z)*+(?:"|\Z)', re.DOTALL)
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-zA-Z=_-]+")
_HEX_LENGTHS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")

_K = TypeVar("_K")
_V = TypeVar("_V")
_T = TypeVar("_T", bound="_Document")
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class Digest(str):
    """A content digest `algorithm:encoded`. Raises InvalidReference for an invalid one.

    Only algorithms that containerd has are accepted. Source: OCI image-spec descriptor.md#digests.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Create a digest from its text."""
        if _SHA256.fullmatch(text):  # almost all are
            return super().__new__(cls, text)
        if not _DIGEST.fullmatch(text):
            raise InvalidReference(f"invalid checksum digest format: {text!r}")
        algorithm, _, encoded = text.partition(":")
        if algorithm not in _HEX_LENGTHS:
            raise InvalidReference(f"unsupported digest algorithm: {text!r}")
        if len(encoded) != _HEX_LENGTHS[algorithm] or not _HEX.fullmatch(encoded):
            raise InvalidReference(f"invalid checksum digest length: {text!r}")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        """Compute the digest of bytes."""
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        """The part before the colon, e.g. `sha256`."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The part after the colon, in lower-case hexadecimal."""
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """A short form for messages: the algorithm and the first twelve digits."""
        return f"{self.algorithm}:{self.encoded[:12]}"


class FrozenDict(dict[_K, _V]):
    """An immutable dict, hashable if its values are."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)

    def _refuse(self, *_args: object, **_named: object) -> NoReturn:
        raise TypeError("pyctrd's values are immutable; copy the mapping with dict()")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


EMPTY: Final[FrozenDict[Any, Any]] = FrozenDict()


def freeze(value: msgspec.Struct, field: str) -> None:
    """Make a mapping in a frozen struct immutable; call it in the struct's `__post_init__`."""
    mapping = getattr(value, field)
    if type(mapping) is not FrozenDict:
        msgspec.structs.force_setattr(value, field, FrozenDict(mapping) if mapping else EMPTY)


class _Document(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base of the OCI JSON objects: frozen, camel case in JSON, unknown fields ignored."""


class _Annotated(_Document, frozen=True, kw_only=True):
    """A document with annotations."""

    annotations: Mapping[str, str] = EMPTY

    def __post_init__(self) -> None:
        freeze(self, "annotations")


class _Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """A containerd object with labels."""

    labels: Mapping[str, str] = EMPTY

    def __post_init__(self) -> None:
        freeze(self, "labels")


class Platform(
    _Document, frozen=True, rename={"os_version": "os.version", "os_features": "os.features"}, kw_only=True
):
    """The platform of a descriptor or config, as written there (not normalized)."""

    architecture: str = ""
    os: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    variant: str = ""

    def __str__(self) -> str:
        """Return `os/architecture[/variant]`."""
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


class Descriptor(_Annotated, frozen=True, kw_only=True):
    """A reference to content: media type, digest, and size in bytes."""

    media_type: str
    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    urls: tuple[str, ...] = ()
    data: bytes = b""
    platform: Platform | None = None
    artifact_type: str = ""


class _Parsed(_Annotated, frozen=True, kw_only=True):
    """What a manifest and an index have in common; `raw` are the bytes it was parsed from."""

    subject: Descriptor | None = None
    media_type: str = ""
    artifact_type: str = ""
    schema_version: int = 0
    raw: bytes = b""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse the document. Raises ContentError if the bytes are not one."""
        return msgspec.structs.replace(_parse(raw, cls), raw=raw)


class Manifest(_Parsed, frozen=True, kw_only=True):
    """An OCI or Docker image manifest; `raw` are the bytes it was parsed from."""

    config: Descriptor
    layers: tuple[Descriptor, ...] = ()


class Index(_Parsed, frozen=True, kw_only=True):
    """An OCI index or a Docker manifest list; `raw` are the bytes it was parsed from."""

    manifests: tuple[Descriptor, ...] = ()


class RootFS(_Document, frozen=True, kw_only=True):
    """The uncompressed layers of an image, bottom first; `stated` are their diff ids, not validated."""

    type: str = ""
    stated: tuple[str, ...] = msgspec.field(default=(), name="diff_ids")

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """The digests of the uncompressed layers. Raises ContentError if the config has anything else there.

        They are validated only here, since signatures and SBOMs have configs too, but no layers to unpack.
        """
        try:
            return tuple(map(Digest, self.stated))
        except InvalidReference as error:
            raise ContentError(
                f"not a valid imageconfig: {error.message} - at `rootfs.diff_ids`",
                hint="the image is broken; `unpack=False` pulls it anyway",
            ) from error

    @property
    def chain_ids(self) -> tuple[Digest, ...]:
        """The names of the layers' committed snapshots, bottom first. Raises ContentError as `diff_ids` does.

        Source: OCI image-spec config.md#layer-chainid.
        """
        chain: list[Digest] = []
        for diff_id in self.diff_ids:
            chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
        return tuple(chain)


class ImageConfig(
    _Document, frozen=True, rename={"os_version": "os.version", "os_features": "os.features"}, kw_only=True
):
    """The parts of an image config that matter for distribution; `raw` are the bytes it was parsed from."""

    architecture: str = ""
    os: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    variant: str = ""
    rootfs: RootFS = RootFS()
    raw: bytes = b""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse a config. Raises ContentError if the bytes are not one."""
        return msgspec.structs.replace(_parse(raw, cls), raw=raw)

    @property
    def platform(self) -> Platform:
        """The platform in the config."""
        return Platform(
            architecture=self.architecture,
            os=self.os,
            os_version=self.os_version,
            os_features=self.os_features,
            variant=self.variant,
        )


class ImageRecord(_Labelled, frozen=True, kw_only=True):
    """An image record of containerd: a name that points at a target."""

    name: str
    target: Descriptor
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None

    @property
    def expires_at(self) -> dt.datetime | None:
        """When containerd 2.0 or later removes the image; None if it does not expire."""
        return expiry_of(self.labels)

    @property
    def is_pinned(self) -> bool:
        """Whether the image is pinned, so that the kubelet's garbage collection and pyctrd leave it.

        Source: containerd internal/cri/store/image/image.go.
        """
        return self.labels.get(PINNED_LABEL) == PINNED


class ContentInfo(_Labelled, frozen=True, kw_only=True):
    """A blob in the content store; the size is in bytes."""

    digest: Digest
    size: int
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None


class IngestStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An unfinished write: `offset` of `total` bytes are written."""

    ref: str
    offset: int
    total: int
    expected: str = ""
    started_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A mount of a snapshot."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


class SnapshotInfo(_Labelled, frozen=True, kw_only=True):
    """A snapshot: `kind` is view, active or committed."""

    name: str
    parent: str = ""
    kind: str = ""
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None


def parse_json(raw: bytes) -> Any:
    """Parse JSON without null values, which Go's decoder treats as absent.

    Raises ContentError, also for more than MAX_JSON_ELEMENTS elements or more than MAX_JSON_DEPTH levels.
    """
    _check_json_size(raw)
    try:
        document = msgspec.json.decode(raw)
        return _without_nulls(document) if b"null" in raw else document
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ContentError(f"not valid JSON: {error}") from error


def _check_json_size(raw: bytes) -> None:
    """Refuse a JSON bomb before it is parsed; for most documents counting characters is enough."""
    if _brackets(raw) <= MAX_JSON_DEPTH and raw.count(b",") <= MAX_JSON_ELEMENTS:
        return
    bare = _JSON_STRING.sub(b"", raw)
    if _brackets(bare) + bare.count(b",") > MAX_JSON_ELEMENTS:
        raise ContentError(f"not valid JSON for an image: more than {MAX_JSON_ELEMENTS} elements")
    depth = 0
    for letter in re.findall(rb"[][{}]", bare):
        depth += 1 if letter in (b"[", b"{") else -1
        if depth > MAX_JSON_DEPTH:
            raise ContentError(f"not valid JSON for an image: nested more than {MAX_JSON_DEPTH} levels deep")


def _brackets(raw: bytes) -> int:
    return raw.count(b"[") + raw.count(b"{")


def _parse(raw: bytes, kind: type[_T]) -> _T:
    document = parse_json(raw)
    if isinstance(document, dict):
        document.pop("raw", None)
    try:
        return convert(document, kind)
    except (msgspec.ValidationError, InvalidReference) as error:
        raise ContentError(f"not a valid {kind.__name__.lower()}: {error}") from error


def convert(document: Any, kind: type[_Struct]) -> _Struct:
    """Convert parsed JSON to a struct. Raises msgspec.ValidationError.

    Under a lock: msgspec crashes the process if two threads use a type for the first time at once.
    """
    with _converting:
        return msgspec.convert(document, kind, dec_hook=_decode_custom)


def _decode_custom(kind: type[Any], value: Any) -> Any:
    if kind is Digest and isinstance(value, str):
        return Digest(value)
    raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def blob_path(digest: Digest) -> str:
    """Return a blob's path in an image layout, e.g. `blobs/sha256/4a5b...` (image-spec image-layout.md)."""
    return f"blobs/{digest.algorithm}/{digest.encoded}"
