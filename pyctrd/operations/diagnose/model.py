"""What diagnose says about an image; its JSON encoding is the documented one (docs/json.md).

Digests are plain strings here: msgspec encodes no subclass of str without a hook.
"""

from __future__ import annotations

from typing import Literal, Self, TypeAlias

import msgspec

from pyctrd.errors import Remedy
from pyctrd.oci.model import Descriptor

Kind: TypeAlias = Literal["image", "attestation", "artifact", "other"]


class Content(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A descriptor, cut down to what names the content; the size is in bytes."""

    media_type: str
    digest: str
    size: int

    @classmethod
    def of(cls, descriptor: Descriptor) -> Self:
        """Take the naming part of a descriptor."""
        return cls(media_type=descriptor.media_type, digest=str(descriptor.digest), size=descriptor.size)


class PlatformState(msgspec.Struct, frozen=True, kw_only=True):
    """What is here of one manifest of the image.

    `platform` is the descriptor's, else the config's, else empty: not known. `target` marks the rows that
    were asked for. `layers_total` is None while the manifest is absent, for then nobody can know; `missing`
    and `missing_bytes` then count only what is known to be missing, and `missing_known` is false.
    `unpacked_in` names the snapshotters that have the image's top snapshot.
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
    """What a tool that only exports would do: `error` is containerd's own text, `exit_code` its status.

    `ok` is false with exit code 0 where containerd reports success for an archive without the image.
    `certain` is false where what is here does not decide it; `note` says why.
    """

    ok: bool
    error: str = ""
    exit_code: int = 0
    note: str = ""
    certain: bool = True


class SaveForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool that fetches before it exports would do.

    `fetch` are the digests that it would download, `bytes` their sum. `network` is true when it would ask
    the registry at all, `fetch_known` false when a document that it would fetch may name more. `ok` and
    `error` are about how it ends, granted that the registry has everything; `exit_code` is its status.
    `certain` is false where what is here does not decide it; `note` says why.
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
    """A forecast for each tool that a person may have at hand; nerdctl's by the first release of a kind.

    `nerdctl_save_2_0_3` is the exception: 2.0.3 is the last release of its kind.
    """

    ctr_export: ExportForecast
    nerdctl_save_2_0_3: SaveForecast
    nerdctl_save_2_0_4: SaveForecast
    nerdctl_save_2_1_4: SaveForecast
    nerdctl_save_2_3_0: SaveForecast
    pyctrd_save: SaveForecast


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why something is missing: `code` is stable, `text` for people, `remedy` the call that fixes it.

    `certain` is false for the likeliest of several explanations; `evidence` is what was seen here. `missing`
    are the digests that this explains.
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
    """The whole finding. `complete` is what the exit code follows: every target platform is here in full.

    `targets` are the platforms asked for; `absent_platforms` those of them that the image does not have.
    `unread` are absent indexes: which platforms they hold is not known.
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
