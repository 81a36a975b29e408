"""Print all that is known about an image."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pyctrd.cli.commandline import join
from pyctrd.cli.commands import history
from pyctrd.cli.page import Cell, Column, Item, Page
from pyctrd.cli.render import amount, blobs_table, content_of, digest_cell
from pyctrd.cli.text import age, count, moment, size
from pyctrd.oci.mediatypes import ingest_prefix

if TYPE_CHECKING:
    from pyctrd import ImageDetails, ImageInfo, Index, Manifest, ManifestInfo, PlatformState
    from pyctrd.cli.documents import images
    from pyctrd.oci.model import ImageConfig


def document(info: ImageInfo) -> images.InspectImage:
    """Return the JSON document, with the image's own documents as they are."""
    image = info.image
    return {
        "name": image.name,
        "namespace": info.namespace,
        "target": content_of(image.target),
        "labels": dict(image.labels),
        "created_at": moment(image.created_at),
        "updated_at": moment(image.updated_at),
        "names": list(info.names),
        "sources": list(info.sources),
        "pinned": info.pinned,
        "in_use": info.in_use,
        "containers": list(info.containers),
        "leases": [
            {"id": lease.id, "labels": dict(lease.labels), "created_at": moment(lease.created_at)}
            for lease in info.leases
        ],
        "complete": info.complete,
        "unread": list(map(content_of, info.unread)),
        "platforms": [
            {
                "platform": state.platform,
                "digest": state.digest,
                "kind": state.kind,
                "selected": state.target,
                "complete": state.complete,
                "missing_bytes": state.missing_bytes,
                "unpacked_in": list(state.unpacked_in),
                "attestation_for": state.attestation_for,
            }
            for state in info.platforms
        ],
        "index": _parsed(info.index),
        "manifests": list(map(_manifest, info.manifests)),
    }


def _manifest(item: ManifestInfo) -> images.InspectedManifest:
    return {
        "platform": item.state.platform,
        "target": content_of(item.descriptor),
        "complete": item.complete,
        "missing": list(map(content_of, item.missing)),
        "bytes": item.bytes,
        "unpacked": [
            {"snapshotter": one.snapshotter, "snapshot": one.snapshot, "bytes": one.bytes}
            for one in item.unpacked
        ],
        "history": list(map(history.document, item.history)),
        "manifest": _parsed(item.manifest),
        "config": _parsed(item.config),
    }


def _parsed(found: Index | Manifest | ImageConfig | None) -> Any:
    return msgspec.json.decode(found.raw) if found is not None else None


def render(info: ImageInfo, page: Page, now: dt.datetime) -> None:
    """Print an image on a page."""
    target = info.image.target
    page.line(info.image.name, "strong")
    page.line(
        f"{ingest_prefix(target.media_type)} {target.digest}, {size(target.size)}, "
        f"namespace {info.namespace}",
        "dim",
    )
    page.line("")
    page.items(list(_about(info, now)))
    if info.platforms:
        page.line("")
        page.table(
            [Column("PLATFORM"), Column("STATE"), Column("UNPACKED"), Column("MANIFEST", brief=True)],
            map(_row, info.platforms),
        )
    for item in info.unread:
        page.line("")
        page.line(f"The index {item.digest} is missing, and its children are unknown.", "bad")
    for manifest in info.manifests:
        _print_manifest(manifest, page, now)


def _about(info: ImageInfo, now: dt.datetime) -> Iterator[Item]:
    image = info.image
    yield _when("created", image.created_at, now)
    if image.updated_at != image.created_at:
        yield _when("updated", image.updated_at, now)
    yield from _several("also named", info.names)
    yield from _several("fetched from", info.sources)
    yield from _several("labels", _pairs(image.labels))
    yield from _several("containers", info.containers)
    yield from _several("leases", (lease.id for lease in info.leases))
    if info.pinned:
        yield Item("pinned", "yes, the kubelet does not remove it")


def _when(term: str, moment_: dt.datetime | None, now: dt.datetime) -> Item:
    if moment_ is None:
        return Item(term, "unknown", "dim")
    return Item(term, f"{moment(moment_)} ({age((now - moment_).total_seconds())} ago)")


def _several(term: str, values: Iterable[str]) -> Iterator[Item]:
    """Yield an item with the first value, and the others below it; nothing if there are none."""
    shown = list(values)
    if shown:
        yield Item(term, shown[0], notes=shown[1:])


def _pairs(values: Mapping[str, str]) -> Iterator[str]:
    return (f"{key}={value}" if value else key for key, value in sorted(values.items()))


def _row(state: PlatformState) -> tuple[Cell, ...]:
    name = state.kind if state.kind != "image" else state.platform or "(unknown)"
    about = f" for {state.attestation_for}" if state.attestation_for else ""
    return (
        Cell(f"{name}{about}", "strong" if state.target else ""),
        _state(state),
        Cell(", ".join(state.unpacked_in) or "no", "" if state.unpacked else "dim"),
        digest_cell(state.digest),
    )


def _state(state: PlatformState) -> Cell:
    if state.complete:
        return Cell("complete", "good")
    least = "" if state.missing_known else "at least "
    missing = f"missing: {least}{amount(state.missing, state.missing_bytes)}"
    return Cell(missing, "bad" if state.target else "dim")


def _print_manifest(item: ManifestInfo, page: Page, now: dt.datetime) -> None:
    page.heading(item.state.platform or f"({item.state.kind})")
    # Digests are apart, so that a longer term does not break them on a narrow terminal.
    page.items(list(_documents(item)))
    page.items(list(_about_manifest(item, now)))
    if item.history:
        page.heading("History")
        listing = history.listing(now)
        shown = [place for place, column in enumerate(listing.columns) if not column.wide]
        page.table(
            [listing.columns[place] for place in shown],
            ([row[place] for place in shown] for row in map(listing.row, item.history)),
        )
    if item.missing:
        page.heading("Missing")
        blobs_table(page, item.missing)


def _documents(item: ManifestInfo) -> Iterator[Item]:
    yield Item("manifest", str(item.descriptor.digest))
    if item.manifest is not None:
        yield Item("config", str(item.manifest.config.digest))
    yield from _several("snapshot", dict.fromkeys(one.snapshot for one in item.unpacked))


def _about_manifest(item: ManifestInfo, now: dt.datetime) -> Iterator[Item]:
    if item.manifest is None:
        return
    layers = count(len(item.manifest.layers), "layer")
    yield Item("size", f"{size(item.bytes)} in the content store, {layers}")
    yield from _several("unpacked", (f"{size(one.bytes)} in {one.snapshotter}" for one in item.unpacked))
    if item.details is not None:
        yield from _about_config(item.details, now)


def _about_config(details: ImageDetails, now: dt.datetime) -> Iterator[Item]:
    if details.created_at is not None:
        yield _when("built", details.created_at, now)
    for term, text in (
        ("author", details.author),
        ("user", details.user),
        ("entrypoint", join(details.entrypoint)),
        ("command", join(details.cmd)),
        ("working folder", details.working_dir),
        ("stop signal", details.stop_signal),
    ):
        if text:
            yield Item(term, text)
    yield from _several("environment", details.env)
    yield from _several("ports", details.exposed_ports)
    yield from _several("volumes", details.volumes)
    yield from _several("image labels", _pairs(details.labels))
