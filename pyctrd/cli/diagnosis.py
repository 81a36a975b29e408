"""Print a diagnosis: what is present, what each tool would do, causes and fixes."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from pyctrd.amounts import MOST_LISTED, listed
from pyctrd.cli import commandline
from pyctrd.cli.installed import Installed
from pyctrd.cli.page import Cell, Column, Item, Page, Tone
from pyctrd.cli.render import digest_cell
from pyctrd.cli.settings import Settings
from pyctrd.cli.text import count, short, size
from pyctrd.errors import Remedy
from pyctrd.oci.mediatypes import ingest_prefix

if TYPE_CHECKING:
    from pyctrd import Cause, Diagnosis, ExportForecast, PlatformState, SaveForecast, Tools

_COLUMNS: Final = (
    Column("PLATFORM"),
    Column("MANIFEST"),
    Column("CONFIG"),
    Column("LAYERS", right=True),
    Column("MISSING", right=True),
    Column("UNPACKED"),
    Column("NOTE"),
    Column("DIGEST", brief=True),
)
# The first release of nerdctl that each forecast is for.
_FIRST: Final = ((2, 0, 0), (2, 0, 4), (2, 1, 4), (2, 3, 0))
# Replaces the platform's name while causes are compared; no platform contains it.
_PLACEHOLDER: Final = "\0"


def document(diagnosis: Diagnosis, settings: Settings) -> dict[str, object]:
    """Return the JSON document: the diagnosis, with each remedy as a command."""
    causes = [
        {**msgspec.structs.asdict(cause), "remedy": commandline.of(cause.remedy, settings)}
        for cause in diagnosis.causes
    ]
    fix = commandline.of(diagnosis.remedy, settings) if diagnosis.remedy else None
    return {**msgspec.structs.asdict(diagnosis), "causes": causes, "remedy": fix}


def render(diagnosis: Diagnosis, page: Page, settings: Settings, tools: Installed | None = None) -> None:
    """Print a diagnosis on a page, with predictions for `tools`, or with None for all that are known."""
    target = diagnosis.target
    page.line(_verdict(diagnosis), "good" if diagnosis.complete else "bad")
    if diagnosis.remedy is not None:
        page.command(commandline.of(diagnosis.remedy, settings))
    page.line(diagnosis.image, "strong", whole=True)
    page.line(
        f"{ingest_prefix(target.media_type)} {target.digest}, {size(target.size)}, "
        f"namespace {diagnosis.namespace}",
        "dim",
    )
    page.line("")
    page.table(_COLUMNS, [_row(row) for row in diagnosis.platforms if row.kind != "attestation"])
    _attestations([row for row in diagnosis.platforms if row.kind == "attestation"], page)
    _gaps(diagnosis, page)
    page.heading(f"Predicted results for {_targets(diagnosis)}")
    _tools(diagnosis, page, tools)
    explanations = _explanations(diagnosis)
    if explanations:
        page.heading("Causes and fixes")
    for number, explanation in enumerate(explanations, 1):
        _explain(number, explanation, page, settings)


def _targets(diagnosis: Diagnosis) -> str:
    if diagnosis.targets == ("all",):
        return "all platforms"
    return ", ".join(diagnosis.targets) or "no platform"


def _row(row: PlatformState) -> tuple[Cell, ...]:
    tone: Tone = "strong" if row.target else ""
    name = row.kind if row.kind != "image" else row.platform or "(unknown)"
    return (
        Cell(name, tone),
        _presence(row.manifest),
        _presence(row.config),
        _layers(row),
        _missing(row),
        Cell(", ".join(row.unpacked_in) or "no", "" if row.unpacked else "dim"),
        _note(row),
        digest_cell(row.digest),
    )


def _presence(here: bool | None) -> Cell:
    if here is None:
        return Cell("?", "dim")
    return Cell("here", "good") if here else Cell("missing", "bad")


def _layers(row: PlatformState) -> Cell:
    if row.layers_total is None:
        return Cell("?", "dim")
    complete = row.layers_present == row.layers_total
    return Cell(f"{row.layers_present}/{row.layers_total}", "good" if complete else "bad")


def _missing(row: PlatformState) -> Cell:
    if not row.missing:
        return Cell("-", "dim")
    text = size(row.missing_bytes) if row.missing_known else f"> {size(row.missing_bytes)}"
    return Cell(text, "bad" if row.target else "warn")


def _note(row: PlatformState) -> Cell:
    about = f"for {row.attestation_for}" if row.attestation_for else ""
    state = "complete" if row.complete else "incomplete"
    if row.target:
        state = f"target, {state}"
    tone: Tone = "good" if row.complete else "bad" if row.target else "dim"
    return Cell("; ".join(filter(None, (about, state))), tone)


def _attestations(rows: Sequence[PlatformState], page: Page) -> None:
    """Print one line about all attestations: there may be one for each platform."""
    if not rows:
        return
    lacking = [row for row in rows if not row.complete]
    target = any(row.target for row in rows)
    if not lacking:
        page.line(f"{count(len(rows), 'attestation')}: complete", "dim")
        return
    missing = {item.digest: item.size for row in lacking for item in row.missing}
    least = "" if all(row.missing_known for row in lacking) else "at least "
    page.line(
        f"{count(len(rows), 'attestation')}: {len(lacking)} incomplete, {least}{_amount(missing)} missing",
        "bad" if target else "dim",
    )


def _verdict(diagnosis: Diagnosis) -> str:
    """Return one sentence: whether the image is complete, and what it lacks."""
    if diagnosis.complete:
        return f"complete: {_targets(diagnosis)}"
    lacks = _lacks(diagnosis)
    parts = [f"{name} lacks {what}" for name, what in lacks]
    parts += [f"the index {short(item.digest)} is missing" for item in diagnosis.unread]
    if diagnosis.absent_platforms:
        parts.append(f"the image has no {listed(diagnosis.absent_platforms)}")
    if not parts:
        parts.append(f"{_targets(diagnosis)} is complete")
    if diagnosis.remedy is None:
        return f"incomplete: {', '.join(parts)}"
    several = len(diagnosis.missing) > 1 or not diagnosis.missing_known
    return f"incomplete: {', '.join(parts)}; this fetches {'them' if several else 'it'}:"


def _lacks(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Return what each target platform lacks; many platforms are summed up."""
    groups: dict[str, list[PlatformState]] = {}
    for row in diagnosis.platforms:
        if row.target and not row.complete:
            name = row.platform if row.kind == "image" and row.platform else f"the {row.kind}"
            groups.setdefault(name, []).append(row)
    if len(groups) > MOST_LISTED:
        groups = {count(len(groups), "platform"): [row for rows in groups.values() for row in rows]}
    return [(name, _lack(rows)) for name, rows in groups.items()]


def _lack(rows: Sequence[PlatformState]) -> str:
    least = "" if all(row.missing_known for row in rows) else "at least "
    return least + _amount({item.digest: item.size for row in rows for item in row.missing})


def _amount(sizes: Mapping[str, int]) -> str:
    return f"{count(len(sizes), 'blob')}, {size(sum(sizes.values()))}"


def _gaps(diagnosis: Diagnosis, page: Page) -> None:
    """Print what is not in the table: platforms the image does not have, and missing indexes."""
    if diagnosis.absent_platforms:
        page.line("")
        page.line(f"The image has no {', '.join(diagnosis.absent_platforms)}.", "bad")
    for item in diagnosis.unread:
        page.line("")
        page.line(f"The index {item.digest} is missing, and its children are unknown.", "bad")


def _tools(diagnosis: Diagnosis, page: Page, here: Installed | None) -> None:
    tools = diagnosis.tools
    nerdctl = _nerdctl(tools, here.nerdctl) if here else _releases(tools)
    items = [Item(name, *_save(forecast), _notes(forecast.note)) for name, forecast in nerdctl]
    if here is None or here.ctr:
        items.insert(0, Item("ctr images export", *_end(tools.ctr_export), _notes(tools.ctr_export.note)))
    items.append(Item("pyctrd save", *_save(tools.pyctrd_save), _notes(tools.pyctrd_save.note)))
    page.items(items)
    if here:
        page.line("--all-tools shows those that are not installed here, too", "dim")


def _releases(tools: Tools) -> list[tuple[str, SaveForecast]]:
    return [
        ("nerdctl save 2.0.0 - 2.0.3", tools.nerdctl_save_2_0_3),
        ("nerdctl save 2.0.4 - 2.1.3", tools.nerdctl_save_2_0_4),
        ("nerdctl save 2.1.4 - 2.2", tools.nerdctl_save_2_1_4),
        ("nerdctl save 2.3+", tools.nerdctl_save_2_3_0),
    ]


def _nerdctl(tools: Tools, version: tuple[int, int, int] | None) -> list[tuple[str, SaveForecast]]:
    """Return the forecast for one release of nerdctl; none for 1.x, which no forecast is for."""
    if version is None or version < _FIRST[0]:
        return []
    (_, forecast) = _releases(tools)[bisect.bisect(_FIRST, version) - 1]
    return [(f"nerdctl save {'.'.join(map(str, version))}", forecast)]


def _save(forecast: SaveForecast) -> tuple[str, Tone]:
    """Return what is downloaded and the outcome."""
    fetch = "downloads nothing"
    if forecast.fetch:
        least = "" if forecast.fetch_known else "at least "
        fetch = f"downloads {least}{count(len(forecast.fetch), 'blob')}, {size(forecast.bytes)}"
    elif forecast.network:
        fetch = "contacts the registry, downloads nothing"
    end, tone = _end(forecast)
    if not forecast.ok:
        return f"{fetch}, then {end}", tone
    return f"{end}, {fetch}", "warn" if forecast.network else tone


def _end(forecast: ExportForecast | SaveForecast) -> tuple[str, Tone]:
    if forecast.ok:
        return ("works", "good") if forecast.certain else ("may work", "warn")
    fails = "fails" if forecast.certain else "likely fails"
    return f"{fails}: {forecast.error}", "bad"


def _notes(note: str) -> Sequence[str]:
    return [note] if note else []


class _Explanation(NamedTuple):
    """A cause and all the platforms that it applies to in the same words."""

    platforms: tuple[str, ...]
    cause: Cause
    target: bool
    remedy: Remedy


def _explanations(diagnosis: Diagnosis) -> list[_Explanation]:
    """Group equal causes of several platforms, those of target platforms first."""
    targets = {row.platform for row in diagnosis.platforms if row.target} | {""}
    groups: dict[object, _Explanation] = {}
    for cause in diagnosis.causes:
        target = cause.platform in targets
        anywhere = replace(cause.remedy, platforms=())
        key = (
            cause.code,
            cause.certain,
            target,
            *_with_name(cause, _PLACEHOLDER),
            bool(cause.platform),
            anywhere,
        )
        known = groups.get(key)
        names = (*(known.platforms if known else ()), cause.platform)
        asked = (*(known.remedy.platforms if known else ()), *cause.remedy.platforms)
        remedy = replace(anywhere, platforms=tuple(dict.fromkeys(asked)))
        groups[key] = _Explanation(names, known.cause if known else cause, target, remedy)
    return sorted(groups.values(), key=lambda item: not item.target)


def _with_name(cause: Cause, name: str) -> tuple[str, ...]:
    """Return a cause's texts with another platform's name."""
    texts = (cause.text, *cause.evidence)
    return tuple(text.replace(cause.platform, name) for text in texts) if cause.platform else texts


def _explain(number: int, explanation: _Explanation, page: Page, settings: Settings) -> None:
    cause = explanation.cause
    names = ", ".join(dict.fromkeys(explanation.platforms))
    text, *evidence = _with_name(cause, names)
    about = f"{names}: " if names not in text else ""
    doubt = "" if cause.certain or "likely" in text else " (likely)"
    command = commandline.of(explanation.remedy, settings)
    page.step(number, f"{about}{text}{doubt}", notes=evidence, command=command)
