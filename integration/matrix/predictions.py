"""The expected result of a cell, from the diagnosis before the tool ran.

diagnose knows the store, not the registry: its forecast assumes one that has everything. What a tool that
resolves a tag does without network, or if the tag was removed or moved, follows from `network` and its note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from integration.matrix.cells import Cell
from integration.matrix.tools import PLATFORM, Outcome
from pyctrd import Diagnosis, ExportForecast, SaveForecast

_BY_CHANCE = {"unknown service containerd.services.streaming.v1.Streaming": "msg=EOF"}
"""Errors that a tool may report differently: here the stream may end before its status is read."""
_REFUSED = "connection refused"
_NO_TAG = "not found"


@dataclass(frozen=True)
class Prediction:
    """The expected result.

    `fetch` are the digests to be downloaded; with `exact` false, only those that are known. `replaced`: the
    image's record points at the tag's new image afterwards, and everything fetched belongs to that one.
    `error` stands in the tool's words. `ok` is None where chance decides.
    """

    ok: bool | None
    error: str = ""
    exit_code: int | None = None
    fetch: frozenset[str] = frozenset()
    exact: bool = True
    network: bool = False
    replaced: bool = False


def predict(cell: Cell, found: Diagnosis) -> Prediction:
    """Return the expected result of this cell from the diagnosis."""
    forecast = getattr(found.tools, cell.tool.forecast)
    if isinstance(forecast, ExportForecast):
        return Prediction(ok=forecast.ok, error=forecast.error, exit_code=forecast.exit_code)
    assert isinstance(forecast, SaveForecast)
    plain = Prediction(
        ok=forecast.ok,
        error=forecast.error,
        fetch=frozenset(forecast.fetch),
        exact=forecast.fetch_known,
        network=forecast.network,
    )
    if not forecast.network or cell.row.circumstance == "registry":
        return plain
    if cell.row.circumstance == "no network":
        return Prediction(ok=False, error=_REFUSED, network=True)
    if cell.tool.program == "pyctrd":
        return plain  # it requests digests, which the registry still has
    if cell.row.circumstance == "tag gone":
        return Prediction(ok=False, error=_NO_TAG, network=True)
    return _after_a_move(plain, forecast, found)


def _after_a_move(plain: Prediction, forecast: SaveForecast, found: Diagnosis) -> Prediction:
    """The record is replaced, and incomplete platforms are fetched from the new image.

    For a complete target platform there is then nothing to export, unless the collector removes the old
    image before nerdctl checks it, which depends on the order of a Go map.
    """
    targets = [row for row in found.platforms if row.target]
    comes = all({item.digest for item in row.missing} & set(forecast.fetch) for row in targets)
    end = {"ok": True, "error": ""} if comes else {"ok": None, "error": "not found"}
    return replace(plain, **end, fetch=frozenset(), exact=False, replaced=True)


@dataclass(frozen=True)
class Facts:
    """The digests of the old image and of the one that the tag moves to."""

    old: frozenset[str]
    new: frozenset[str]
    old_root: str
    new_root: str
    online: bool
    before: frozenset[str]


def wrong(cell: Cell, prediction: Prediction, outcome: Outcome, facts: Facts) -> list[str]:
    """List the differences between result and prediction; empty if the prediction was right."""
    return [*differences(prediction, outcome, facts), *_wrong_archive(cell, prediction, outcome)]


def differences(prediction: Prediction, outcome: Outcome, facts: Facts) -> list[str]:
    """List differences of the exit code, the requests and the store."""
    return [*_wrong_end(prediction, outcome), *_wrong_fetch(prediction, outcome, facts)]


def _wrong_end(prediction: Prediction, outcome: Outcome) -> Iterator[str]:
    code = prediction.exit_code
    if code is not None and outcome.exit_code != code:
        yield f"exit {outcome.exit_code}, predicted {code}"
    elif prediction.ok is not None and code is None and (outcome.exit_code == 0) != prediction.ok:
        yield f"exit {outcome.exit_code}, predicted {'success' if prediction.ok else 'failure'}"
    # ctr 1.6 and 1.7 put `invalid manifest "<digest>": ` into errors about manifest.json.
    words = re.sub(r'invalid manifest \\?"\S+": ', "", outcome.words)
    words = words.replace('\\"', '"').replace("\\\\", "\\")
    if prediction.error in _BY_CHANCE and _BY_CHANCE[prediction.error] in words:
        return
    if outcome.exit_code and prediction.error not in words:
        yield f"error does not say {prediction.error!r}: {outcome.words[-300:]}"


def _wrong_fetch(prediction: Prediction, outcome: Outcome, facts: Facts) -> Iterator[str]:
    if facts.online and bool(outcome.requests) != prediction.network:
        yield f"{len(outcome.requests)} requests, predicted {'some' if prediction.network else 'none'}"
    if prediction.exact and outcome.fetched != prediction.fetch:
        yield f"fetched {sorted(outcome.fetched)}, predicted {sorted(prediction.fetch)}"
    if not outcome.fetched >= prediction.fetch:
        yield f"did not fetch {sorted(prediction.fetch - outcome.fetched)}"
    if outcome.fetched & facts.before:
        yield f"fetched what was here: {sorted(outcome.fetched & facts.before)}"
    if not outcome.fetched <= (facts.new if prediction.replaced else facts.old):
        yield "fetched what is not of the predicted image"
    expected = facts.new_root if prediction.replaced else facts.old_root
    if outcome.target != expected:
        yield f"the record points at {outcome.target} now, not at {expected}"


def _wrong_archive(cell: Cell, prediction: Prediction, outcome: Outcome) -> Iterator[str]:
    """An archive by the transfer service may be truncated, so it is not checked."""
    if not prediction.ok or outcome.exit_code or cell.tool.by_daemon:
        return
    if outcome.archive is None:
        yield "the archive is not whole"
    elif lacking := outcome.archive.lacks(PLATFORM.get(cell.row.ask)):
        yield f"the archive lacks {sorted(lacking)}"
