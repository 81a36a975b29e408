"""Archives on the command line: which arguments are some, and how their images are printed."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyctrd.amounts import listed
from pyctrd.cli.page import Cell, Column, Item, Page, Tone
from pyctrd.cli.render import amount, content_of, digest_cell
from pyctrd.cli.text import size
from pyctrd.oci.platforms import format_all

if TYPE_CHECKING:
    from pyctrd import ArchivedImage, ArchivedPlatform, Descriptor
    from pyctrd.cli.documents import archives, content

# No image is called so, and for a file that is not there, the error has to be about a file.
_ENDINGS: Final = (".tar", ".tgz", ".tzst", ".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2")
_TONES: Final[dict[str, Tone]] = {"complete": "good", "presumed": "warn", "incomplete": "bad"}


def is_archive(argument: str) -> bool:
    """Whether an argument is an archive, not a reference: see the help of `verify`."""
    if argument == "-" or argument.startswith(("/", "./", "../")) or argument.lower().endswith(_ENDINGS):
        return True
    try:
        mode = Path(argument).stat().st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISDIR(mode):
        return Path(argument, "oci-layout").is_file()
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode)


def image_document(image: ArchivedImage) -> archives.ArchivedImage:
    """Return an image as JSON."""
    return {
        "name": image.name,
        "target": content_of(image.target),
        "platforms": list(map(format_all, image.having("complete"))),
        "complete": image.complete,
        "manifests": [
            {
                "platform": _platform(item),
                "digest": item.digest,
                "state": item.state,
                "size": item.size,
                "missing": list(map(content_of, item.missing)),
            }
            for item in image.platforms
        ],
        "attestations": image.attestations,
    }


def amounts_of(blobs: Iterable[Descriptor]) -> list[content.Blob]:
    """Return digest and size of blobs, for JSON."""
    return [{"digest": item.digest, "size": item.size} for item in blobs]


def print_image(page: Page, image: ArchivedImage) -> None:
    """Print the name of an image, and what is there of each of its platforms."""
    page.heading(image.name or "(no name)")
    # On lines of their own, so that a longer label does not break the digest.
    page.items([Item("digest", image.target.digest)])
    items = []
    if image.attestations:
        items.append(Item("attestations", str(image.attestations)))
    if absent := image.having("absent"):
        items.append(Item("not in the archive", listed(list(map(format_all, absent)))))
    page.items(items)
    there = [item for item in image.platforms if item.state != "absent"]
    if there:
        page.table(
            [Column("PLATFORM"), Column("STATE"), Column("SIZE", right=True), Column("MANIFEST", brief=True)],
            [
                (
                    Cell(_platform(item) or "-"),
                    Cell(_state(item), _TONES[item.state]),
                    Cell(size(item.size)),
                    digest_cell(item.digest),
                )
                for item in there
            ],
        )


def print_presumed(page: Page, presumed: Sequence[Descriptor]) -> None:
    """Print what a delta archive presumes; nothing if it is none."""
    if presumed:
        page.heading("Left out")
        page.line(f"{amount(presumed, sum(item.size for item in presumed))}, which the target should have")
        page.table(
            [Column("DIGEST"), Column("SIZE", right=True)],
            [(digest_cell(item.digest), Cell(size(item.size))) for item in presumed],
        )


def _platform(item: ArchivedPlatform) -> str:
    return format_all(item.platform) if item.platform is not None else ""


def _state(item: ArchivedPlatform) -> str:
    if not item.missing:
        return "complete" if item.state == "complete" else "damaged"
    lacking = amount(item.missing, sum(blob.size for blob in item.missing))
    return f"{'left out' if item.state == 'presumed' else 'missing'}: {lacking}"
