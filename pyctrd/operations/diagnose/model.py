"""The result of a diagnosis, whose JSON encoding is documented in docs/json.md.

Digests are plain strings here, since msgspec does not encode subclasses of str without a hook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, TypeAlias

import msgspec

from pyctrd.amounts import size
from pyctrd.errors import PyctrdError, Remedy
from pyctrd.oci.model import Descriptor

Kind: TypeAlias = Literal["image", "attestation", "artifact", "other"]


class Content(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The media type, digest and size of content; the size is in bytes."""

    media_type: str
    digest: str
    size: int

    @classmethod
    def of(cls, descriptor: Descriptor) -> Self:
        """Return the Content of a descriptor."""
        return cls(media_type=descriptor.media_type, digest=str(descriptor.digest), size=descriptor.size)


class PlatformState(msgspec.Struct, frozen=True, kw_only=True):
    """What the store has of one manifest of the image.

    `platform` is the descriptor's, or else the config's; empty if it is unknown. `target` is true for the
    requested platforms. `layers_total` is None if the manifest is absent and the layers are unknown; then
    `missing` and `missing_bytes` are only what is known to be missing, and `missing_known` is false.
    `unpacked_in` are the snapshotters that have the image's top snapshot.
    """

    platform: str
    digest: str
    kind: Kind
    target: bool
    complete: bool
    manifest: bool
    config: bool | None
    layers_present: int | None
    layers_total: int | None
    missing: tuple[Content, ...]
    missing_bytes: int
    missing_known: bool
    unpacked: bool
    unpacked_in: tuple[str, ...]
    attestation_for: str | None


class ExportForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool that only exports would do: `error` is containerd's message, `exit_code` its exit code.

    `ok` is false and `exit_code` is 0 if containerd reports success for an archive without the image.
    `certain` is false if the local content does not determine the result; `note` says why.
    """

    ok: bool
    error: str = ""
    exit_code: int = 0
    note: str = ""
    certain: bool = True


class SaveForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool that fetches before it exports would do.

    `fetch` are the digests that it would download, `bytes` their total size. `network` is true if it would
    use the registry at all. `fetch_known` is false if a document in `fetch` may add more. `ok`, `error` and
    `exit_code` are the result if the registry has everything. `certain` is false if the local content does
    not determine the result; `note` says why.
    """

    fetch: tuple[str, ...]
    bytes: int
    network: bool
    fetch_known: bool = True
    ok: bool
    error: str = ""
    exit_code: int = 0
    note: str = ""
    certain: bool = True


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """A forecast for each tool. Each nerdctl release is the first one that behaves like this.

    `nerdctl_save_2_0_3` is the exception: 2.0.3 is the last release that behaves like 2.0.0.
    """

    ctr_export: ExportForecast
    nerdctl_save_2_0_3: SaveForecast
    nerdctl_save_2_0_4: SaveForecast
    nerdctl_save_2_1_4: SaveForecast
    nerdctl_save_2_3_0: SaveForecast
    pyctrd_save: SaveForecast


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why content is missing: `code` is stable, `text` is for people, and `remedy` is the call that fixes it.

    `certain` is false for the likeliest of several explanations. `evidence` is what was found in the store.
    `missing` are the digests that this explains.
    """

    code: str
    platform: str
    digest: str | None
    text: str
    certain: bool
    evidence: tuple[str, ...]
    missing: tuple[str, ...]
    remedy: Remedy


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The diagnosis of an image.

    `complete` is true if all content of the target platforms is in the store; it determines the exit code.
    `targets` are the requested platforms, and `absent_platforms` those that the image does not have. `unread`
    are absent indexes, whose platforms are unknown. `remedy` is the call that fetches all that the target
    platforms lack; None if the image is complete, or nothing can be fetched.
    """

    image: str
    namespace: str
    target: Content
    snapshotter: str
    targets: tuple[str, ...]
    complete: bool
    absent_platforms: tuple[str, ...]
    platforms: tuple[PlatformState, ...]
    unread: tuple[Content, ...]
    tools: Tools
    causes: tuple[Cause, ...]
    remedy: Remedy | None = None

    @property
    def missing(self) -> tuple[Content, ...]:
        """What is known to be missing of the target platforms, each blob once."""
        return missing_of(self.platforms, self.unread)

    @property
    def missing_bytes(self) -> int:
        """The total size of `missing` in bytes."""
        return sum(item.size for item in self.missing)

    @property
    def missing_known(self) -> bool:
        """Whether `missing` is all: an absent manifest or index may list more."""
        return not self.unread and all(row.missing_known for row in self.platforms if row.target)

    def _repr_html_(self) -> str:
        """Return a table, which a Jupyter notebook shows."""
        from pyctrd.operations.diagnose.html import bullets, table, verdict

        rows = [
            (
                row.platform or row.kind,
                *_status(row.complete, row.missing_bytes, row.missing_known),
                "selected" if row.target else "",
            )
            for row in self.platforms
        ]
        status, missing = _status(self.complete, self.missing_bytes, self.missing_known)
        head = verdict(self.image, status if self.complete else f"{status}, lacks {missing}")
        causes = [cause.text for cause in self.causes]
        return head + table(("Platform", "Status", "Missing", ""), rows) + bullets(causes)


class DiagnosisSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The diagnosis of one of many images.

    `complete`, `missing_bytes` and `missing_known` are those of its Diagnosis. `cause` is the first cause of
    what the target platforms lack, and `remedy` the call that fetches it: None for a complete image, and for
    one that does not have the platform. `alias_of` is another name of the same content, for the records that
    CRI creates next to a tag (`name@digest`, `sha256:...`). `error` is set if a document cannot be read; then
    the image counts as incomplete.
    """

    image: str
    namespace: str
    target: Content
    complete: bool
    missing_blobs: int = 0
    missing_bytes: int = 0
    missing_known: bool = True
    cause: Cause | None = None
    remedy: Remedy | None = None
    alias_of: str = ""
    error: PyctrdError | None = None

    def _repr_html_(self) -> str:
        """Return a table with one row, which a Jupyter notebook shows."""
        from pyctrd.operations.diagnose.html import table

        cause = self.error.message if self.error else self.cause.text if self.cause else ""
        status = _status(self.complete, self.missing_bytes, self.missing_known)
        return table(("Image", "Status", "Missing", "Cause"), [(self.image, *status, cause)])


def _status(complete: bool, missing_bytes: int, known: bool) -> tuple[str, str]:
    """Return the words for whether something is complete, and for what it lacks."""
    if complete:
        return "complete", "-"
    return "incomplete", size(missing_bytes) if known else f"at least {size(missing_bytes)}"


def missing_of(rows: Sequence[PlatformState], unread: Sequence[Content]) -> tuple[Content, ...]:
    """Return what target rows and absent indexes lack, each blob once."""
    lacked = [item for row in rows if row.target for item in row.missing]
    return tuple({item.digest: item for item in (*unread, *lacked)}.values())
