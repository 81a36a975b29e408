"""`pyctrd ensure`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pyctrd.cli import commandline, settings
from pyctrd.cli.page import Page, Tone
from pyctrd.cli.progress import reporting
from pyctrd.cli.render import amount, blobs_table, content_of, emit_json, open_page, resumed_of
from pyctrd.cli.session import open_client, resumable
from pyctrd.cli.text import count, sanitize, size
from pyctrd.errors import NoMatchingPlatform
from pyctrd.oci.model import Descriptor

if TYPE_CHECKING:
    from pyctrd import EnsureAllResult, EnsuredImage, EnsureResult
    from pyctrd.cli.documents import transfers


@click.command("ensure")
@settings.image_argument("ref", required=False)
@click.option("--all", "every", is_flag=True, help="Complete every incomplete image of the namespace.")
@click.option("-A", "--all-namespaces", is_flag=True, help="With --all: in all namespaces.")
@settings.platform_option("Platform to complete (default: the host's).")
@settings.all_platforms_option
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Take content from an archive, before a registry is asked; not from a compressed one.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be fetched, without fetching it.")
@settings.registry_options
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
@click.pass_context
def command(
    context: click.Context,
    ref: str | None,
    every: bool,
    all_namespaces: bool,
    platforms: tuple[str, ...],
    all_platforms: bool,
    source: str | None,
    dry_run: bool,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Fetch the missing content of an image.

    Fetches by digest from the image's original repository and does not resolve the tag again. If nothing is
    missing, no registry is contacted.

    With --all, go on after an error of one image, and exit with the code of the first one.
    """
    if every == (ref is not None):
        raise click.UsageError("--all cannot be combined with REF" if every else "Missing argument 'REF'.")
    if all_namespaces and not every:
        raise click.UsageError("--all-namespaces needs --all")
    wanted = settings.platforms_of(platforms, all_platforms)
    with open_client() as client, reporting("none" if dry_run else progress, quiet=quiet) as sink:
        if not dry_run:
            resumable()
        if ref is None:
            everything = client.images.ensure_all(
                platforms=wanted,
                all_namespaces=all_namespaces,
                source=source,
                dry_run=dry_run,
                progress=sink,
            )
        else:
            result = client.images.ensure(
                ref, platforms=wanted, source=source, dry_run=dry_run, progress=sink
            )
    if ref is None:
        _show_all(everything, output_format, quiet=quiet, chosen=context.ensure_object(settings.Settings))
        if everything.error:
            context.exit(everything.error.exit_code)
        return
    _show(_document(result), _summary(result), result.fetched or tuple(result.resumed), output_format, quiet)


def _document(result: EnsureResult) -> transfers.Ensure | transfers.EnsurePlan:
    fetched = [content_of(item) for item in result.fetched]
    if result.dry_run:
        return {"fetch": fetched, "bytes": result.bytes_fetched}
    return {
        "fetched": fetched,
        "bytes": result.bytes_fetched,
        "resumed": resumed_of(result.resumed),
        "bytes_resumed": result.bytes_resumed,
    }


def _summary(result: EnsureResult) -> str:
    fetched = (
        f"{'would fetch' if result.dry_run else 'fetched'} {amount(result.fetched, result.bytes_fetched)}"
    )
    return f"{fetched}, resumed {amount(result.resumed, result.bytes_resumed)}" if result.resumed else fetched


def _show(
    document: transfers.Ensure | transfers.EnsurePlan,
    summary: str,
    blobs: Sequence[Descriptor],
    output_format: str,
    quiet: bool,
) -> None:
    page = open_page()
    if output_format == "json":
        emit_json(document)
    elif quiet:
        for item in blobs:
            page.line(item.digest)
    elif not blobs:
        page.line("nothing is missing", "good")
    else:
        page.line(summary, "strong")
        blobs_table(page, blobs)


def _show_all(found: EnsureAllResult, output_format: str, *, quiet: bool, chosen: settings.Settings) -> None:
    if output_format == "json":
        images = [_image(item) for item in found.images]
        emit_json({"images": images, "complete": found.complete, "bytes": found.bytes_fetched})
        return
    page = open_page()
    for item in found.images:
        if item.error:
            _report(item, chosen)
        elif item.result and quiet:
            for blob in item.result.fetched or tuple(item.result.resumed):
                page.line(blob.digest)
        elif item.result:
            page.line(f"{item.image.name}: {_summary(item.result)}")
    if not quiet:
        _total(found, page)


def _image(item: EnsuredImage) -> transfers.EnsuredImage:
    image: transfers.EnsuredImage = {"image": item.image.name, "namespace": item.namespace, "error": None}
    if item.result:
        return {**image, **_document(item.result)}
    return {**image, "error": item.error.message if item.error else None}


def _report(item: EnsuredImage, chosen: settings.Settings) -> None:
    """Print the error of an image to stderr, with its hint if that is a command for this image."""
    assert item.error
    click.echo(sanitize(f"pyctrd: {item.image.name}: {item.error.message}"), err=True)
    there = replace(chosen, namespace=item.namespace)
    if item.error.hint and (item.error.remedy is None or item.error.remedy.method):
        click.echo(sanitize(f"hint: {commandline.hint(item.error, there)}"), err=True)


def _total(found: EnsureAllResult, page: Page) -> None:
    done = [item for item in found.images if item.result]
    absent = sum(isinstance(item.error, NoMatchingPlatform) for item in found.images)
    failed = len(found.images) - len(done) - absent
    verb = "would fetch" if found.dry_run else "fetched"
    parts = [
        f"{verb} {size(found.bytes_fetched)} for {count(len(done), 'image')}" if done else "",
        f"{count(failed, 'image')} failed" if failed else "",
        f"{count(absent, 'image')} without the platform" if absent else "",
        f"{count(found.complete, 'image')} complete before" if found.complete else "",
    ]
    tone: Tone = "bad" if failed else "strong" if done else "good"
    page.line(", ".join(filter(None, parts)) or "no images", tone)
