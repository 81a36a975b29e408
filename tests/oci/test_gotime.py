"""Times and durations as Go parses them."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.oci.gotime import parse_duration, parse_time
from tests.vectors import rows

_FIRST = dt.datetime.min.replace(tzinfo=dt.UTC)
_LAST = dt.datetime.max.replace(tzinfo=dt.UTC, microsecond=0)
_VECTORS = rows("go_times")


@pytest.mark.parametrize("row", [row for row in _VECTORS if "seconds" in row], ids=lambda row: row["text"])
def test_a_time_is_what_go_makes_of_it(row: dict[str, str | int | None]) -> None:
    found, wanted = parse_time(str(row["text"])), row["seconds"]
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        limits = int(_FIRST.timestamp()), int(_LAST.timestamp())
        assert abs(found.timestamp() - min(max(int(wanted), limits[0]), limits[1])) <= 1


@pytest.mark.parametrize(
    "row", [row for row in _VECTORS if "nanoseconds" in row], ids=lambda row: repr(row["text"])
)
def test_a_duration_is_what_go_makes_of_it(row: dict[str, str | int | None]) -> None:
    found, wanted = parse_duration(str(row["text"])), row["nanoseconds"]
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        # Go multiplies fractions as floating point numbers.
        assert abs(found - dt.timedelta(microseconds=int(wanted) / 1000)) <= dt.timedelta(microseconds=1)


@given(st.datetimes(timezones=st.just(dt.UTC)))
def test_every_time_is_parsed(moment: dt.datetime) -> None:
    assert parse_time(moment.isoformat().replace("+00:00", "Z")) == moment


@given(st.text())
def test_any_text_is_accepted_or_refused(text: str) -> None:
    assert parse_time(text) is None or len(text) >= len("2026-11-27T1:00:00Z")
    assert parse_duration(text) is None or text.lstrip("+-") == "0" or text[-1] in "smh"
