"""What `rm` and `prune` print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pyctrd.cli.page import Cell, Column, Page
from pyctrd.cli.render import digest_cell
from pyctrd.cli.text import count, short, size

if TYPE_CHECKING:
    from pyctrd import Reference, RemoveResult
    from pyctrd.cli.documents import space

# At most this many objects that keep an image are named.
_NAMED: Final = 4


def document(result: RemoveResult) -> space.Remove:
    """Return the JSON object of a removal."""
    return {
        "images": list(result.images),
        "blobs": [{"digest": blob.digest, "size": blob.size, "shared": blob.shared} for blob in result.blobs],
        "snapshots": [
            {"snapshotter": item.snapshotter, "key": item.key, "bytes": item.bytes}
            for item in result.snapshots
        ],
        "leases": list(result.leases),
        "ingests": list(result.ingests),
        "bytes": result.bytes,
        "kept": [
            {"image": item.name, "by": [{"kind": one.kind, "name": one.name} for one in item.by]}
            for item in result.kept
        ],
    }


def show(page: Page, result: RemoveResult, *, sync: bool = True, dry_run: bool = False) -> None:
    """Print a removal: the images, and what is freed; before it is carried out, also each object."""
    kept = {item.name: item.by for item in result.kept}
    for name in result.images:
        page.line(f"{'would remove' if dry_run else 'removed'} {name}", "strong")
        if name in kept:
            page.line(f"its content stays: {_keepers(kept[name])}", indent=2)
    for name in result.leases:
        page.line(f"{'would remove' if dry_run else 'removed'} lease {name}")
    for ref in result.ingests:
        page.line(f"{'would discard' if dry_run else 'discarded'} unfinished write {ref}")
    if dry_run and (result.blobs or result.snapshots):
        columns = [Column("KIND"), Column("DIGEST OR KEY"), Column("SIZE", right=True), Column("NOTE")]
        page.table(columns, _rows(result))
    begin = "would free" if dry_run else "freed" if sync else "will free"
    page.line(f"{begin} {_amounts(result)}")


def _rows(result: RemoveResult) -> Iterator[Sequence[Cell]]:
    for blob in result.blobs:
        note = "stays for another namespace" if blob.shared else ""
        yield Cell("blob"), digest_cell(blob.digest), Cell(size(blob.size)), Cell(note, "dim")
    for item in result.snapshots:
        key = Cell(item.key, brief=short(item.key))
        yield Cell("snapshot"), key, Cell(size(item.bytes)), Cell(item.snapshotter, "dim")


def _amounts(result: RemoveResult) -> str:
    amounts = {"blob": len(result.blobs), "snapshot": len(result.snapshots)}
    parts = [count(number, name) for name, number in amounts.items() if number]
    if not parts:
        return "nothing"
    shared = sum(blob.shared for blob in result.blobs)
    verb = "stays" if shared == 1 else "stay"
    stay = f"; {count(shared, 'blob')} {verb} on the disk for another namespace" if shared else ""
    return f"{size(result.bytes)}: {' and '.join(parts)}{stay}"


def _keepers(by: Sequence[Reference]) -> str:
    named = [f"{one.kind} {short(one.name) if one.kind == 'content' else one.name}" for one in by[:_NAMED]]
    more = f", and {len(by) - _NAMED} more" if len(by) > _NAMED else ""
    return f"{', '.join(named)}{more} {'keeps' if len(by) == 1 else 'keep'} it"
