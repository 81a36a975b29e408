"""`pyctrd content`: a group."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import click

from pyctrd.cli import settings
from pyctrd.cli.commands.pull import show_result
from pyctrd.cli.group import Group
from pyctrd.cli.labels import changes_argument, labels_text
from pyctrd.cli.lists import CONTAINERD_FILTERS, Listing, list_options
from pyctrd.cli.page import Cell, Column, Item
from pyctrd.cli.progress import reporting
from pyctrd.cli.render import digest_cell, emit_json, open_page
from pyctrd.cli.session import open_client, resumable
from pyctrd.cli.text import moment, sanitize, size
from pyctrd.oci.model import ContentInfo

if TYPE_CHECKING:
    from pyctrd.cli.documents import services


@click.group("content", cls=Group)
def command() -> None:
    """List, read, label and remove blobs in the content store.

    DIGEST is a digest, or the beginning of one if no other blob has it: `sha256:4a5b6c` or `4a5b6c`.
    """


@command.command("ls")
@list_options("Print only the digests.", CONTAINERD_FILTERS)
@settings.global_options
def ls(output_format: str, quiet: bool, filters: tuple[str, ...]) -> None:
    """List blobs."""
    with open_client() as client:
        blobs = client.content.list(filters)
    BLOBS.show(blobs, output_format, quiet=quiet)


def document_of(blob: ContentInfo) -> services.StoredBlob:
    """Return a blob for JSON."""
    return {
        "digest": blob.digest,
        "size": blob.size,
        "labels": dict(blob.labels),
        "created_at": moment(blob.created_at),
        "updated_at": moment(blob.updated_at),
    }


BLOBS = Listing[ContentInfo](
    columns=[Column("DIGEST"), Column("SIZE", right=True), Column("CREATED"), Column("LABELS", brief=True)],
    row=lambda blob: (
        digest_cell(blob.digest),
        Cell(size(blob.size)),
        Cell(moment(blob.created_at)),
        Cell(labels_text(blob.labels), "dim"),
    ),
    document=document_of,
    name=lambda blob: str(blob.digest),
)


@command.command("info")
@click.argument("digest")
@settings.format_option("text", "json")
@settings.global_options
def info(digest: str, output_format: str) -> None:
    """Show the size, the times and the labels of a blob."""
    with open_client() as client:
        blob = client.content.get(digest)
    _show(blob, output_format)


def _show(blob: ContentInfo, output_format: str) -> None:
    if output_format == "json":
        emit_json(document_of(blob))
        return
    open_page().items(
        [
            Item("digest", blob.digest),
            Item("size", f"{size(blob.size)} ({blob.size} bytes)"),
            Item("created", moment(blob.created_at)),
            Item("updated", moment(blob.updated_at)),
            Item("labels", "" if blob.labels else "none"),
        ]
    )
    for key, value in sorted(blob.labels.items()):
        click.echo(sanitize(f"  {key}={value}"))


@command.command("get")
@click.argument("digest")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    default="-",
    show_default="stdout",
    help="Write to this file, which appears only when it is complete.",
)
@click.option("--offset", type=click.IntRange(min=0), default=0, metavar="BYTES", help="Begin at this byte.")
@click.option("--length", type=click.IntRange(min=0), metavar="BYTES", help="Write at most this many bytes.")
@settings.global_options
def get(digest: str, output: str, offset: int, length: int | None) -> None:
    """Write the bytes of a blob to stdout or to a file.

    The bytes of a whole blob are compared with the digest; if they do not match, the exit code is 1 and there
    is no file. Binary data is not printed on a terminal. `read` prints a document indented.
    """
    with open_client() as client:
        part = offset or length is not None
        if output == "-" and sys.stdout.isatty() and not part and client.content.is_document(digest):
            click.echo(sanitize(client.content.document(digest, indent=False), keep="\n\t"))
        else:
            client.content.save(digest, output, offset=offset, length=length)


@command.command("read")
@click.argument("digest")
@settings.global_options
def read(digest: str) -> None:
    """Print an index, a manifest, a config or another JSON document, indented.

    The output is for reading: its bytes do not match the digest. `get` writes the stored bytes.
    """
    with open_client() as client:
        text = client.content.document(digest)
    click.echo(sanitize(text, keep="\n"))


@command.command("rm")
@click.argument("digests", metavar="DIGEST...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also remove what an image, a lease or a label protects.")
@settings.format_option("text", "json")
@settings.global_options
def rm(digests: tuple[str, ...], force: bool, output_format: str) -> None:
    """Remove blobs from the content store.

    Removes nothing if an image, a lease or a label of other content refers to one of the blobs, and says
    which. The garbage collector removes by itself what nothing refers to.
    """
    with open_client() as client:
        removed = client.content.remove(digests, force=force)
    if output_format == "json":
        emit_json({"removed": [{"digest": blob.digest, "size": blob.size} for blob in removed]})
        return
    for blob in removed:
        click.echo(blob.digest)


@command.command("label")
@click.argument("digest")
@changes_argument
@click.option("--force", is_flag=True, help="Also change labels of the garbage collector.")
@settings.format_option("text", "json")
@settings.global_options
def label(digest: str, changes: dict[str, str], force: bool, output_format: str) -> None:
    """Set and remove labels of a blob.

    K=V sets a label; K- and K= remove it. Other labels are left as they are.
    """
    with open_client() as client:
        blob = client.content.label(digest, changes, force=force)
    _show(blob, output_format)


@command.command("fetch")
@click.argument("ref", callback=settings.checked_reference)
@settings.platform_option("Platform to fetch (default: the host's).", local=False)
@settings.all_platforms_option
@click.option(
    "--metadata",
    type=click.Choice(["all", "selected"]),
    default="all",
    show_default=True,
    help="Fetch manifests and configs of all platforms, or of the selected ones only.",
)
@click.option("--metadata-only", is_flag=True, help="Do not fetch layers.")
@settings.label_option
@settings.registry_options
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def fetch(
    ref: str,
    platforms: tuple[str, ...],
    all_platforms: bool,
    metadata: Literal["all", "selected"],
    metadata_only: bool,
    labels: dict[str, str],
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Fetch an image's content and record the image, without unpacking it.

    The same as `pull --no-unpack`, and as `ctr content fetch`.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    with open_client() as client, reporting(progress, quiet=quiet) as sink:
        resumable()
        result = client.content.fetch(
            ref,
            platforms=wanted,
            metadata=metadata,
            metadata_only=metadata_only,
            labels=labels,
            progress=sink,
        )
    show_result(result, output_format, quiet=quiet)
