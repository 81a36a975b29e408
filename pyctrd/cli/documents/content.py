"""What documents share: content, digests, times."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, TypedDict

from msgspec import Meta

DIGEST: Final = r"^(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$"
_TIME: Final = r"^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$"
_EXACT_TIME: Final = r"^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z)?$"

Sha: TypeAlias = Annotated[str, Meta(pattern=DIGEST)]
Time: TypeAlias = Annotated[str, Meta(pattern=_TIME)]
ExactTime: TypeAlias = Annotated[str, Meta(pattern=_EXACT_TIME)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Labels: TypeAlias = dict[str, str]
Strings: TypeAlias = list[str]


class Content(TypedDict):
    """Media type, digest and size in bytes of content."""

    mediaType: str
    digest: Sha
    size: Count


class ResumedContent(Content):
    """A blob whose interrupted download was resumed, with the bytes that were already stored."""

    bytes: Count


class Referrer(Content):
    """A signature, an SBOM or the like in an archive, with the digest that it refers to."""

    artifactType: str
    subject: Sha


class ListedReferrer(Content):
    """A signature, an SBOM or the like in a registry."""

    artifactType: str
    annotations: Labels


class Blob(TypedDict):
    """Digest and size of a blob."""

    digest: Sha
    size: Count


class NamedTarget(TypedDict):
    """An image's name and target."""

    name: str
    target: Content
