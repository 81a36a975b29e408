"""`pyctrd why`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from pyctrd.cli import settings
from pyctrd.cli.page import Page
from pyctrd.cli.render import emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import age, count, moment, short

if TYPE_CHECKING:
    from pyctrd import Reference, WhyResult
    from pyctrd.cli.documents import space

# At most this many chains are printed; JSON has all of them.
_SHOWN: Final = 10
_KINDS: Final = {"content": "blob", "ingest": "unfinished write"}
_LABELS: Final = "containerd.io/"
_FIELDS: Final = {
    "target": "its target",
    "parent": "its parent",
    "lease": "holds",
    "snapshot": "its root filesystem",
}


@click.command("why")
@settings.image_argument("name", metavar="DIGEST|SNAPSHOT|REF")
@settings.format_option("table", "json")
@settings.global_options
def command(name: str, output_format: str) -> None:
    """Show what keeps a blob, a snapshot or an image.

    Each chain of references leads from what is kept by itself to it: from an image, a lease, a container, an
    unfinished write, or an object with a gc.root label. Without a chain, the next garbage collection removes
    it. Digests and keys of snapshots may be shortened.

    For an image, this is its record and what else keeps its content, and the containers that use it: `pyctrd
    rm` refuses to remove it then.
    """
    with open_client() as client:
        result = client.images.why(name)
    if output_format == "json":
        emit_json(_document(result))
    else:
        _show(open_page(), result, dt.datetime.now(dt.UTC))


def _document(result: WhyResult) -> space.Why:
    return {
        "objects": list(map(_object, result.objects)),
        "chains": [list(map(_link, chain)) for chain in result.chains],
        "containers": list(result.containers),
        "pinned": list(result.pinned),
    }


def _object(item: Reference) -> space.WhyObject:
    """Return an object's JSON; `snapshotter` only of snapshots."""
    found: space.WhyObject = {"kind": item.kind, "name": item.name}
    if item.kind == "snapshot":
        found["snapshotter"] = item.snapshotter
    return found


def _link(item: Reference) -> space.WhyLink:
    found: space.WhyLink = {"kind": item.kind, "name": item.name, "via": item.via}
    if item.kind == "snapshot":
        found["snapshotter"] = item.snapshotter
    if item.expires_at is not None:
        found["expires_at"] = moment(item.expires_at)
    if item.purpose:
        found["purpose"] = item.purpose
    return found


def _show(page: Page, result: WhyResult, now: dt.datetime) -> None:
    names = " and ".join(_name(item) for item in result.objects)
    own = [chain for chain in result.chains if chain == result.objects]
    others = [chain for chain in result.chains if chain != result.objects]
    if own:
        (record,) = result.objects
        expiry = f", or {_expiry(record.expires_at, now)}" if record.expires_at else ""
        page.line(f"{names} stays until it is removed{expiry}", "strong")
    if others:
        what = f"{'its content' if result.objects[0].kind == 'image' else names} is"
        also = " also" if own else ""
        page.line(f"{what}{also} kept by {count(len(others), 'chain')} of references:", "strong")
    elif not own:
        page.line(f"nothing keeps {names}: the next garbage collection removes it", "warn")
    for chain in others[:_SHOWN]:
        page.line("")
        _show_chain(page, chain, now)
    if len(others) > _SHOWN:
        page.line("")
        page.line(f"... and {len(others) - _SHOWN} more: see --format json")
    if others and (result.containers or result.pinned):
        page.line("")
    for container in result.containers:
        page.line(f"container {container} uses it")
    for name in result.pinned:
        page.line(f"{name} is pinned for Kubernetes")


def _show_chain(page: Page, chain: Sequence[Reference], now: dt.datetime) -> None:
    """Print a chain, each object below the one that refers to it."""
    for depth, item in enumerate(chain):
        how = _FIELDS.get(item.via, item.via.removeprefix(_LABELS))
        begin = f"{how}: " if depth else ""
        notes = [f"label {how}"] if item.via and not depth else []
        notes += [item.purpose] if item.purpose else []
        notes += [_expiry(item.expires_at, now)] if item.expires_at else []
        notes += [] if item.here else ["not here"]
        end = f" ({', '.join(notes)})" if notes else ""
        page.line(f"{begin}{_name(item)}{end}", "" if depth else "strong", indent=2 * depth + 2)


def _expiry(when: dt.datetime, now: dt.datetime) -> str:
    seconds = (when - now).total_seconds()
    return f"expires in {age(seconds)}" if seconds > 0 else f"expired {age(-seconds)} ago"


def _name(item: Reference) -> str:
    where = f"{item.snapshotter} " if item.kind == "snapshot" else ""
    name = item.name if item.kind in ("image", "lease", "container") else short(item.name)
    return f"{where}{_KINDS.get(item.kind, item.kind)} {name}"
