"""The page about the matrix: docs/mismatch.md, the same in every run on the same versions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from integration.matrix.cells import ROWS, Row, cells_of
from integration.matrix.images import ABOUT
from integration.matrix.runner import Result
from integration.matrix.tools import TOOLS

_ASKED = {
    "host": "host's platform",
    "arm64": "arm64",
    "riscv64": "riscv64",
    "all": "all platforms",
}
_SHORT = {
    "unknown service": "no service",
    "no manifest found for platform": "no platform",
    "unable to create manifests file": "nested",
    "connection refused": "no network",
    "not found": "absent",
}
_HEAD = """\
# What each tool does with the same image

Written by `scripts/mismatch-report`: every cell is a run of the real tool, against a real containerd and a real
docker-registry. What `pyctrd diagnose` says was asked *before* each tool ran, and compared afterwards: success or
failure, the error, the digests downloaded, whether the registry was asked at all, whether the record was replaced.
Each archive was read blob by blob, and imported by the real ctr into an empty containerd.

{summary}

| program | version |
|---|---|
{versions}

## How to read the tables

* **ok** – the archive holds the image for what was asked. Nothing was downloaded.
* **ok, 8 blobs, 2.1 kB** – as above, after downloading these from the registry.
* **ok, NEW** – the tag had moved: the archive holds the tag's new image, and the record in containerd was replaced.
* **fails: absent** – `content digest …: not found`; **no platform** – `no manifest found for platform: not found`;
  **nested** – `unable to create manifests file: invalid checksum digest format`; **no network** – the connection
  was refused; **no tag** – the registry does not know the tag any more; **no service** – the daemon has no
  transfer service. What was downloaded before the failure stands behind it.
* The columns *ctr 2 export* and *nerdctl 2.3.5 save* export through the daemon's transfer service. **ok** there
  means that the tool reported success: now and then such an archive is cut short all the same, and how often is
  chance, so no statement about the archive is made there.
* *ctr 1.6* and *ctr 1.7* are those programs against the daemon that stands in the heading, as all tools are.

The images:

{images}

How they came, all with the real tools: `ctr pull` is that of containerd 2 (all platforms' metadata, the host's
layers); `nerdctl pull` is nerdctl 2.3.5 and, as `ctr 1.6 pull` and `ctr 1.7 pull`, stores the host's platform only;
`ctr import` reads an archive with all of the image; `kubelet, layers discarded` is a pull of the host's platform
whose layers lost their labels and were collected once they were unpacked, as with `discard_unpacked_layers`.
"""
_WHY = """\
## Where the differences come from

**Why nerdctl 2.0.3 downloads what nobody asked for.** It takes each platform whose manifest and config it can read
for one that ought to be complete. After `ctr pull` of containerd 2 these are all of them. After `nerdctl pull` it is
the host's alone, so the same command on the same image downloads nothing. pyctrd and nerdctl from 2.0.4 on look
at the platforms that were asked for.

**Why it then fails without network, though all that it writes is here.** Its first download fails before it comes to
the export. That is the row *five platforms, ctr pull, no network*.

**Why ctr fails where the others work.** `ctr export` never downloads. What is absent stays absent: layers of other
platforms, or layers that the kubelet's runtime discarded.

**Why nerdctl fails where pyctrd works.** No nerdctl fetches an absent manifest or config: a platform of which it can
read nothing is one that it does not see. Its export then wants the manifest all the same. pyctrd fetches the manifest
and then what that names.

**Why the tag matters to nerdctl, and not to pyctrd.** nerdctl asks for the tag. If that is gone, there is nothing to
fetch from, although every blob is still in the registry. If it has moved, the local record is replaced by the new
image, of which only those platforms come that were incomplete of the old one. So 2.0.3 asked for the host's platform
replaces the image, brings all platforms but that one, and fails; and the image that was complete before is
gone. pyctrd asks for digests: the record stays, and the archive holds what was pulled.

**Why all platforms fail in nerdctl 2.2.2 and 2.3.5 with attestations.** From 2.1.4 on they are passed over when nerdctl
looks for what is incomplete, but the export of all platforms includes them. 2.0.3 and 2.0.4 download them.

**Why all platforms need the host's in ctr and nerdctl 2.3.** `manifest.json`, for `docker load`, is about one manifest
of the host's platform, and the exporter fails without one. nerdctl before 2.3 asks for any platform there.

**Why a nested index alone cannot be exported.** The exporter takes the index's only child for a manifest and looks for
its config. Beside a manifest of the host's platform a nested index goes in whole, whatever was asked for. pyctrd
goes down to the manifests.

**Why nerdctl 2.3 fails on containerd 1.6.** It lets the daemon export, and 1.6 has no transfer service.
"""


def page(
    results: Mapping[Row, Sequence[Result]], versions: Iterable[tuple[str, str]], missing: Mapping[str, str]
) -> str:
    """Make the page. `missing` are the tools or rows that could not be had here, with the reason."""
    told = [_summary(results)]
    told += [f"Not to be had here: {name} ({reason})." for name, reason in sorted(missing.items())]
    head = _HEAD.format(
        summary="\n\n".join(told),
        versions="\n".join(f"| {name} | {version} |" for name, version in versions),
        images="\n".join(f"* **{name}** – {about}" for name, about in ABOUT),
    )
    return "\n".join([head, *_tables(results), _WHY])


def _summary(results: Mapping[Row, Sequence[Result]]) -> str:
    every = [result for row in results.values() for result in row]
    right = sum(not result.wrong for result in every)
    return f"**{len(every)} cells, {right} foretold rightly, {len(every) - right} wrongly.**"


def _tables(results: Mapping[Row, Sequence[Result]]) -> Iterator[str]:
    for daemon in sorted({row.daemon for row in ROWS}, reverse=True):
        for image, _ in ABOUT:
            rows = [row for row in ROWS if (row.daemon, row.image) == (daemon, image)]
            if rows:
                yield f"## {image[0].upper()}{image[1:]}, in containerd {daemon}\n"
                yield "\n".join(_table(rows, results)) + "\n"


def _table(rows: Sequence[Row], results: Mapping[Row, Sequence[Result]]) -> Iterator[str]:
    yield f"| came by | asked for | {' | '.join(tool.name for tool in TOOLS)} |"
    yield "|" + "---|" * (len(TOOLS) + 2)
    for row in rows:
        done = {result.cell.tool.name: result for result in results.get(row, ())}
        told = [_cell(done.get(tool.name), runs=tool.runs_on(row.daemon)) for tool in TOOLS]
        asked = _ASKED[row.ask] + ("" if row.circumstance == "registry" else f"; {row.circumstance}")
        yield f"| {row.arrival} | {asked} | {' | '.join(told)} |"


def _cell(result: Result | None, *, runs: bool) -> str:
    if result is None:
        return "not to be had" if runs else "–"
    text = "ok" if result.outcome.exit_code == 0 else f"fails: {_reason(result)}"
    if result.prediction.replaced and result.outcome.exit_code == 0:
        text += ", NEW"
    if result.outcome.fetched:
        count = len(result.outcome.fetched)
        text += f", {count} blob{'s' * (count > 1)}, {_size(result.outcome.size)}"
    return text + (" **(not foretold)**" if result.wrong else "")


def _reason(result: Result) -> str:
    """The kind of failure, by containerd's own words."""
    if result.cell.row.circumstance == "tag gone" and result.prediction.network:
        return "no tag"
    words = re.sub(r'\\?"', '"', result.outcome.words)
    if result.cell.row.circumstance == "no network" and result.prediction.network:
        return "no network"
    return next((short for phrase, short in _SHORT.items() if phrase in words), "other")


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1000:.1f} kB"


def total() -> int:
    """How many cells there are."""
    return sum(len(cells_of(row)) for row in ROWS)
