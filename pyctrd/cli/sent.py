"""Output of push and copy: the result, or the plan of --dry-run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd.amounts import listed
from pyctrd.cli import commandline
from pyctrd.cli.page import Item, Page
from pyctrd.cli.render import amount, blobs_table, content_of, emit_json, open_page
from pyctrd.cli.settings import Settings
from pyctrd.cli.text import count
from pyctrd.errors import Remedy
from pyctrd.oci import mediatypes
from pyctrd.oci import platforms as platform_names

if TYPE_CHECKING:
    from pyctrd import SendResult
    from pyctrd.cli.documents import transfers
    from pyctrd.oci.model import Descriptor


def show(result: SendResult, output_format: str, quiet: bool) -> None:
    """Print the result, or the plan, in the chosen format."""
    page = open_page()
    if output_format == "json":
        emit_json(_document(result))
    elif quiet and result.dry_run:
        for item in result.uploaded:
            page.line(item.digest)
    elif quiet:
        page.line(f"{result.name}@{result.target.digest}" if "@" not in result.name else result.name)
    elif result.dry_run:
        _print_plan(page, result)
    else:
        page.line(result.name, "strong")
        uploaded = amount(result.uploaded, result.bytes_uploaded) if result.uploaded else "nothing"
        page.items([*_what(result), Item("uploaded", uploaded), *_rest(result)])


def _document(result: SendResult) -> transfers.Send | transfers.SendPlan:
    uploaded = [content_of(item) for item in result.uploaded]
    mounted = [content_of(item) for item in result.mounted]
    common: transfers.Sent = {
        "source": result.source,
        "name": result.name,
        "original": content_of(result.original),
        "target": content_of(result.target),
        "platforms": [platform_names.to_string(item) for item in result.platforms],
        "present": [content_of(item) for item in result.present],
        "skipped": [content_of(item) for item in result.skipped],
        "bytes": result.bytes_uploaded,
    }
    if result.dry_run:
        return {**common, "upload": uploaded, "mount": mounted}
    return {**common, "uploaded": uploaded, "mounted": mounted}


def _print_plan(page: Page, plan: SendResult) -> None:
    page.line(plan.name, "strong")
    would = amount(plan.uploaded, plan.bytes_uploaded) if plan.uploaded else "nothing"
    mount = [Item("would mount", _blobs(plan.mounted))] if plan.mounted else []
    there = [Item("already present", _blobs(plan.present))] if plan.present else []
    page.items([*_what(plan), Item("would upload", would), *mount, *there, *_skipped(plan)])
    blobs_table(page, plan.uploaded)


def _what(result: SendResult) -> list[Item]:
    """Print the digest, and say so if it differs from the source's, since users compare them."""
    items = [Item("digest", result.target.digest)]
    if result.target.digest != result.original.digest:
        items.append(Item("made from", f"{result.original.digest}, {_what_it_lost(result)}"))
    if result.platforms:
        items.append(Item("platforms", listed([platform_names.to_string(item) for item in result.platforms])))
    return items


def _what_it_lost(result: SendResult) -> str:
    if any(map(_is_attestation, result.skipped)):
        return "without skipped content"
    return "selected platforms only"


def _rest(result: SendResult) -> list[Item]:
    mounted = [Item("mounted", _blobs(result.mounted))] if result.mounted else []
    there = [Item("already present", _blobs(result.present))] if result.present else []
    return [*mounted, *there, *_skipped(result)]


def _skipped(result: SendResult) -> list[Item]:
    items = []
    if layers := [item for item in result.skipped if not _is_attestation(item)]:
        text = f"{count(len(layers), 'layer')} marked non-distributable (--allow-nondistributable)"
        items.append(Item("skipped", text, "warn"))
    if attestations := [item for item in result.skipped if _is_attestation(item)]:
        remedy = Remedy(method="ensure", images=(result.source,), platforms=("unknown/unknown",))
        command = commandline.of(remedy, click.get_current_context().ensure_object(Settings))
        text = f"{count(len(attestations), 'attestation')} with missing content; to fetch it: {command}"
        items.append(Item("skipped", text, "warn"))
    return items


def _is_attestation(descriptor: Descriptor) -> bool:
    return mediatypes.is_manifest(descriptor.media_type)


def _blobs(blobs: tuple[Descriptor, ...]) -> str:
    return amount(blobs, sum(item.size for item in blobs))
